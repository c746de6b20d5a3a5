"""What the pages show: README.md and docs/*.md taken apart into blocks of code and links."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1``` *$", re.MULTILINE | re.DOTALL)
# The first line names the file, or the second where Hydra wants the first for itself.
FILE = re.compile(r"(?:# @package \S+\n)?# ((?:[\w.-]+/)*[\w-]+\.(?:py|yaml))\n")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: the page it is on.
        line: number of its first line of code.
        language: the word after the fence, such as `sh` or `python`.
        skipped: whether `no-run` follows the language.
        text: what is between the fences.
    """

    page: "Page"
    line: int
    language: str
    skipped: bool
    text: str

    @property
    def file(self) -> str | None:
        """The path that a first line such as `# conf/task/squares.yaml` gives the block."""
        found = FILE.match(self.text)
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        """Path from the root of the repository."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        """The whole file."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """The file without its blocks; line numbers stay."""
        return FENCE.sub(lambda found: "\n" * found[0].count("\n"), self.text)

    @cached_property
    def blocks(self) -> list[Block]:
        """Its fenced blocks, in order."""
        found = []
        for match in FENCE.finditer(self.text):
            language, *flags = match[2].split() or [""]
            line = self.text[: match.start()].count("\n") + 2
            text = re.sub(f"^{match[1]}", "", match[3], flags=re.MULTILINE)
            found.append(Block(self, line, language, "no-run" in flags, text))
        return found

    def of(self, *languages: str) -> list[Block]:
        """Its blocks in some languages."""
        return [block for block in self.blocks if block.language in languages]


PAGES = [
    Page(path)
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
]


def page(name: str) -> Page:
    """The page with a path from the root."""
    return next(p for p in PAGES if p.name == name)


def write_files(blocks: list[Block], folder: Path) -> None:
    """Write the blocks that are files below `folder`."""
    for block in blocks:
        if block.file is not None and not block.skipped:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
