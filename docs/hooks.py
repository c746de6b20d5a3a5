"""Lets the pages of docs/ link to files outside docs/, on the built site as on a code-hosting page.

A page links to what lies elsewhere in the repository by its real path, such as
`../experiments/shakespeare/main_job.png` or `../CONTRIBUTING.md`; every host of code follows such
a link as it stands. MkDocs, however, knows the files below `docs_dir` only. So each file that is
linked in this way is added to the site at its path from the root of the repository, and the link
loses its `../`. `../README.md` becomes the site's home page, which has another name for the same;
a link to a folder becomes plain text, since a site has no page for one.

MkDocs calls `on_files` once a build and `on_page_markdown` once a page.
"""

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")  # the target of a link or of a picture
FOLDER = re.compile(r"\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)\)")
HOME = {"README.md": "index.md"}


def on_files(files: Any, config: Any) -> Any:
    """Add every file outside docs/ that a page links to, and CONTRIBUTING.md."""
    from mkdocs.structure.files import File

    for name in sorted(outside(ROOT)):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn a page's links into those of the site."""
    del config, files
    return site_links(markdown, page.file.src_uri)


def outside(root: Path) -> set[str]:
    """Paths from the root of all files outside docs/ that the site needs.

    Pages among them may link to more. A path that does not exist is left out: strict MkDocs then
    reports the link.
    """
    found: set[str] = set()
    waiting = [root / "CONTRIBUTING.md", *sorted(root.glob("docs/*.md"))]
    while waiting:
        page = waiting.pop()
        name = page.relative_to(root).as_posix()
        if not name.startswith("docs/"):
            found.add(name)
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            target = Path(os.path.normpath(page.parent / link))
            name = target.relative_to(root).as_posix() if target.is_relative_to(root) else ""
            if name.startswith("docs/") or name in HOME or not target.is_file():
                continue
            if target.suffix == ".md" and name not in found:
                waiting.append(target)
            found.add(name)
    return found


def site_links(markdown: str, name: str) -> str:
    """The Markdown of a page with links as they are on the site.

    Args:
        markdown: as it is in the repository.
        name: path of the page on the site: `models.md`, `CONTRIBUTING.md`.
    """
    is_outside = (ROOT / name).is_file()
    folder = (ROOT / name).parent if is_outside else ROOT / "docs"

    def plain(found: re.Match[str]) -> str:
        return found[1] if (folder / found[2]).is_dir() else found[0]

    def moved(found: re.Match[str]) -> str:
        target = os.path.relpath(folder / found[1], ROOT)
        on_site = HOME.get(target, target.removeprefix("docs/"))
        return os.path.relpath(on_site, Path(name).parent)

    return LINK.sub(moved, FOLDER.sub(plain, markdown))
