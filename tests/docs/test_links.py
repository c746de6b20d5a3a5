"""Links and pictures of the pages lead somewhere, and the site's contents list every page."""

import importlib.util
import re

import pytest
import yaml

from tests import test_architecture
from tests.docs import pages

LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")


def anchors(page: pages.Page) -> set[str]:
    """The anchors that a page's headings get, on the site and on code-hosting pages."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", page.prose, re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", heading).lower()).strip()
        found |= {re.sub(r"\s", "-", plain), re.sub(r"[\s-]+", "-", plain)}
    return found


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.prose):
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(pages.ROOT), f"{page.name}: {link} leaves the repository"
        if anchor:
            assert anchor in anchors(pages.Page(target)), f"{page.name}: {link} has no such heading"


def test_the_contents_of_the_site_list_every_page():
    site = yaml.safe_load((pages.ROOT / "mkdocs.yml").read_text())

    def files(nav):
        for entry in nav:
            for value in entry.values() if isinstance(entry, dict) else [entry]:
                yield from files(value) if isinstance(value, list) else [value]

    listed = list(files(site["nav"]))
    assert len(listed) == len(set(listed))
    here = {path.name for path in (pages.ROOT / "docs").glob("*.md")}
    assert set(listed) == here | {"CONTRIBUTING.md"}


def test_the_readme_is_short():
    assert len(pages.page("README.md").text.splitlines()) <= 150


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: p.name)
def test_files_named_on_a_page_exist(page):
    named = re.findall(r"`((?:mambalab|conf|tests|experiments|docs)/[\w./-]*)`", page.prose)
    named = [name for name in named if "NAME" not in name]
    assert [name for name in named if not (pages.ROOT / name).exists()] == []


def test_the_architecture_lists_every_room_in_order():
    """The table of rooms is that of tests/test_architecture.py."""
    text = pages.page("docs/architecture.md").prose
    table = text[text.index("## The rooms") : text.index("## What Hydra does")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(test_architecture.ALL)


def test_links_out_of_docs_are_those_of_the_site():
    """docs/hooks.py: the site has files of the repository at their paths from its root."""
    spec = importlib.util.spec_from_file_location("hooks", pages.ROOT / "docs/hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    for name, here, on_site in [
        ("models.md", "![a](../experiments/x.png)", "![a](experiments/x.png)"),
        ("models.md", "[b](../README.md#top)", "[b](index.md#top)"),
        ("models.md", "[c](tasks.md#a) [d](#e)", "[c](tasks.md#a) [d](#e)"),
        ("models.md", "[f](https://x.y/../z)", "[f](https://x.y/../z)"),
        ("models.md", "[g](../experiments/shakespeare)", "g"),
        ("CONTRIBUTING.md", "[t](docs/tasks.md) [l](LICENSE)", "[t](tasks.md) [l](LICENSE)"),
        ("experiments/shakespeare/dropout/comparison.md", "![](best.png)", "![](best.png)"),
    ]:
        assert hooks.site_links(here, name) == on_site
    needed = hooks.outside(pages.ROOT)
    assert {"CONTRIBUTING.md", "experiments/shakespeare/main_job.png"} <= needed
    assert not any(name.startswith("docs/") for name in needed)
