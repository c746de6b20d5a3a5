"""Lets the pages of docs/ link to files outside docs/, on the built site as on a code-hosting page.

A page links to what lies elsewhere in the repository by its real path, such as
`../experiments/shakespeare/mamba_ssm.png` or `../CONTRIBUTING.md`; every host of code follows such
a link as it stands. MkDocs, however, knows the files below `docs_dir` only. So each file that is
linked in this way is added to the site at its path from the root of the repository, and the link
loses its `../`. `../README.md` becomes the site's home page, which has another name for the same.

MkDocs calls `on_files` once a build and `on_page_markdown` once a page.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OUTWARDS = re.compile(r"(\]\()(\.\./)([^)#\s]+)")  # the start of a link out of docs/
INWARDS = re.compile(r"(\]\()docs/([^)\s]+)")  # a link of CONTRIBUTING.md into docs/
HOME = {"README.md": "index.md"}


def on_files(files: Any, config: Any) -> Any:
    """Add every file outside docs/ that a page links to, pages such as CONTRIBUTING.md included."""
    from mkdocs.structure.files import File

    wanted = {"CONTRIBUTING.md"}
    for path in [ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")]:
        wanted |= outside(path)
    for name in sorted(wanted - set(HOME)):
        if (ROOT / name).is_file():  # what is not there, strict MkDocs reports as a broken link
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn a page's links into those of the site."""
    del config, files
    return site_links(markdown, page.file.src_uri)


def outside(path: Path) -> set[str]:
    """Paths from the root of what a page links to outside docs/."""
    text = path.read_text(encoding="utf-8")
    if path.parent == DOCS:
        return {found[3] for found in OUTWARDS.finditer(text)}
    links = re.findall(r"\]\((?!\w+:|#|docs/)([^)#\s]+)", text)
    return set(links)


def site_links(markdown: str, name: str) -> str:
    """The Markdown of the page `name` with links as they are on the site.

    >>> site_links("[a](../experiments/x.png) [b](../README.md#top)", "models.md")
    '[a](experiments/x.png) [b](index.md#top)'
    >>> site_links("[tasks](docs/tasks.md)", "CONTRIBUTING.md")
    '[tasks](tasks.md)'
    """
    if name == "CONTRIBUTING.md":
        return INWARDS.sub(r"\1\2", markdown)
    return OUTWARDS.sub(lambda found: found[1] + HOME.get(found[3], found[3]), markdown)
