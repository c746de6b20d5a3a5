"""Python and YAML as the pages show them: run, or read, in the order in which they stand there."""

import pytest
import torch
import yaml

from tests.docs import pages

WITH_PYTHON = [page for page in pages.PAGES if page.of("python")]
# Output and drawings are `text` or `console`; whoever adds another language adds its check, too.
LANGUAGES = {"python", "yaml", "sh", "text", "console", "json", "toml", "css", "diff"}
YAML = [block for page in pages.PAGES for block in page.of("yaml") if not block.skipped]


def run_page(page: pages.Page) -> dict:
    """Run the Python blocks of a page in one namespace, which is returned; files are written."""
    pages.write_files(page.blocks, pages.Path.cwd())
    names: dict = {"__name__": "__main__"}
    for block in page.of("python"):
        if block.file is None and not block.skipped:
            # Empty lines before the block: a traceback then shows the line of the page.
            code = compile("\n" * (block.line - 1) + block.text, page.path, "exec")
            exec(code, names)
    return names


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda p: p.name)
def test_python_runs_as_printed(page, workplace):
    run_page(page)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda p: p.name)
def test_python_files_are_python(page):
    for block in page.of("python"):
        compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_is_yaml(block):
    assert yaml.safe_load(block.text) is not None


def test_every_block_says_what_it_is():
    blocks = [block for page in pages.PAGES for block in page.blocks]
    assert [str(block) for block in blocks if block.language not in LANGUAGES] == []


def test_what_is_not_run_says_why():
    skipped = [block for page in pages.PAGES for block in page.blocks if block.skipped]
    silent = [str(block) for block in skipped if not block.text.startswith("# ")]
    assert silent == [], "the first line of these must be a comment with the reason"


def test_the_models_of_the_library_have_the_shapes_that_are_printed(workplace):
    names = run_page(pages.page("docs/getting-started.md"))
    assert names["logits"].shape[:2] == (1, 3)
    assert names["block"](torch.ones(1, 5, 64)).shape == (1, 5, 64)
