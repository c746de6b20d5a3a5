"""Images in a folder with a sub-folder for each class: which files there are, and what is left out.

Left out are hidden files and folders and those that systems make for themselves, at every depth;
files in no format that Pillow reads; and links to a folder that was entered already, so that no
image is there twice. All of it is counted.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from unicodedata import normalize

from mambalab.errors import UserError, first_line
from mambalab.utils.text import printable

# Made by systems, not by people: macOS, Synology, QNAP, Windows, Linux. In lower case.
_SYSTEM_NAMES = {
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "lost+found"),
    *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    "icon\r",
}
# Formats that Pillow knows by name only, or draws by running another program.
_NO_PIXELS = frozenset(["BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"])
_MAX_EXTENSIONS_NAMED = 5
# A split's folder: train, training_set, Train2017, test1, val-images, ...
_SPLIT_NAME = re.compile(
    r"(train|training|val|valid|validation|test|testing)[ _.-]?(set|data|images?|split)?[ _-]?\d*"
)
_SPLITS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


@dataclass
class ImageTree:
    """What is in a folder of images.

    Attributes:
        path: of the folder.
        classes: names of its sub-folders, sorted.
        files: path and class (an index into `classes`) of each image; the order is fixed by the
            names: classes, then folders, then files.
        hidden: hidden files and folders, and those that systems make, that were left out.
        repeated: links to a folder that was entered already.
        others: files that are no images, by their extension in lower case.
        loose: images that lie beside the sub-folders, in no class.
    """

    path: Path
    classes: list[str] = field(default_factory=list)
    files: list[tuple[str, int]] = field(default_factory=list)
    hidden: int = 0
    repeated: int = 0
    others: Counter[str] = field(default_factory=Counter)
    loose: int = 0

    def counts(self) -> list[int]:
        """Count the images of each class."""
        found = Counter(label for _, label in self.files)
        return [found[label] for label in range(len(self.classes))]

    def left_out(self) -> str:
        """Say what was left out, in words; empty if nothing was."""
        counts = {
            "hidden and system files and folders": self.hidden,
            "images beside the sub-folders, in no class": self.loose,
            "links to folders that are read already": self.repeated,
        }
        parts = [f"{what} ({count:,})" for what, count in counts.items() if count]
        if self.others:
            parts.append(f"files of other kinds ({named(self.others)})")
        return ", ".join(parts)


@cache
def formats() -> tuple[str, ...]:
    """Names of the formats that Pillow reads by itself, as `Image.open` takes them."""
    from PIL import Image

    Image.init()
    return tuple(sorted(set(Image.OPEN) - _NO_PIXELS))


@cache
def _image_extensions() -> frozenset[str]:
    from PIL import Image

    known = set(formats())
    return frozenset(e for e, name in Image.registered_extensions().items() if name in known)


def is_hidden(name: str, folder: bool) -> bool:
    """Whether a file or folder is hidden, or one that a system or program keeps for itself."""
    return (
        name.startswith(".")
        or (folder and name.startswith("__"))  # __MACOSX, __pycache__
        or name.lower() in _SYSTEM_NAMES
    )


def scan(path: Path, flat: bool = False) -> ImageTree:
    """Find the images in the sub-folders of `path`, at any depth.

    Args:
        path: the folder.
        flat: images in the folder itself are taken, too, and all of them as one class then;
            sub-folders without images are no classes.

    Raises:
        UserError: a folder cannot be listed, or two classes are the same folder.
    """
    tree, walk = ImageTree(path), _Walk(path)
    roots: dict[tuple[int, int] | None, str] = {}
    for name in _names(path):
        entry = os.path.join(path, name)
        folder = os.path.isdir(entry)
        if is_hidden(name, folder):
            tree.hidden += 1
        elif not folder:
            tree.loose += _extension(name) in _image_extensions()
        elif not walk.enter(entry):
            if twin := roots.get(_identity(entry)):
                raise UserError(
                    f"{path}: {printable(twin)} and {printable(name)} are the same folder (one is "
                    "a link to the other): remove the link"
                )
            tree.repeated += 1
        else:
            roots[_identity(entry)] = name
            tree.classes.append(name)
    if flat and tree.loose:
        tree, walk = ImageTree(path, ["pictures"]), _Walk(path)  # which counts everything again
        walk.visit(str(path), 0)
    else:
        for label, name in enumerate(tree.classes):
            walk.visit(os.path.join(path, name), label)
    # Links come last: where one leads to a folder that is here, it is the link that is left out.
    while walk.links:
        walk.links.sort(reverse=True)
        label, link = walk.links.pop()
        if walk.enter(link):
            walk.visit(link, label)
        else:
            walk.repeated += 1
    if flat:  # a folder without images is no class that anybody asked for
        held = {label: n for n, label in enumerate(sorted({label for label, _, _ in walk.found}))}
        tree.classes = [tree.classes[label] for label in held]
        walk.found = [(held[label], folder, name) for label, folder, name in walk.found]
    tree.files = [(os.path.join(folder, name), label) for label, folder, name in sorted(walk.found)]
    tree.hidden += walk.hidden
    tree.repeated += walk.repeated
    tree.others = walk.others
    return tree


class _Walk:
    """Walks through folders, none of them twice, nor back to one that `top` lies in.

    Attributes:
        entered: device and inode of each folder so far.
        found: class, folder and name of each image.
        links: class and path of links to folders that are not followed yet.
        hidden, repeated, others: as in `ImageTree`.
    """

    def __init__(self, top: Path) -> None:
        self.entered = set(filter(None, map(_identity, (top, *top.resolve().parents))))
        self.found: list[tuple[int, str, str]] = []
        self.links: list[tuple[int, str]] = []
        self.hidden = self.repeated = 0
        self.others: Counter[str] = Counter()

    def enter(self, folder: str) -> bool:
        """Whether a folder was not entered before; it is from now on."""
        key = _identity(folder)
        new = key is not None and key not in self.entered
        if key is not None:
            self.entered.add(key)
        return new

    def visit(self, top: str, label: int) -> None:
        """Collect the images of a class from a folder and those below it, links put by."""
        queue = [top]
        while queue:
            folder = queue.pop()
            for name in _names(Path(folder)):
                path = os.path.join(folder, name)
                is_folder = os.path.isdir(path)
                if is_hidden(name, is_folder):
                    self.hidden += 1
                elif is_folder and os.path.islink(path):
                    self.links.append((label, path))
                elif is_folder:
                    if self.enter(path):
                        queue.append(path)
                    else:  # a link led here from somewhere else
                        self.repeated += 1
                elif (extension := _extension(name)) in _image_extensions():
                    self.found.append((label, folder, name))
                else:
                    self.others[extension] += 1


def extensions_in(folder: Path) -> str:
    """Name the extensions of the files in a folder and below it, with counts; "" if none."""
    walk = _Walk(folder)
    walk.visit(str(folder), 0)
    return named(walk.others)


def named(extensions: Counter[str]) -> str:
    """Write extensions with their counts, the commonest first."""
    shown = [
        f"{printable(name) or 'no extension'} {count:,}"
        for name, count in extensions.most_common(_MAX_EXTENSIONS_NAMED)
    ]
    return ", ".join(shown) + (", ..." if len(extensions) > _MAX_EXTENSIONS_NAMED else "")


@dataclass(frozen=True)
class Layout:
    """How a folder is divided.

    Attributes:
        parts: the folder of `train`, and of `val` and `test` where there are such; the folder
            itself as `train` if its sub-folders are the classes.
        ignored: sub-folders that are neither.
        loose: images that lie beside the splits.
        doubtful: whether a class is called `train` and holds folders, like a split.
    """

    parts: dict[str, Path]
    ignored: tuple[str, ...] = ()
    loose: int = 0
    doubtful: bool = False


def layout(path: Path, flat: bool = False) -> Layout:
    """Tell whether the sub-folders of `path` are splits or classes.

    They are splits if one is called `train` and another `val` or `test` (or nearly so, `test1` and
    `training_set`, say, if `train` holds folders and no image), or if there is only a `train` that
    holds folders.

    Args:
        path: the folder.
        flat: splits may hold images without any folder of a class.

    Raises:
        UserError: `path` cannot be listed.
    """
    names = [n for n in _names(path) if (path / n).is_dir() and not is_hidden(n, folder=True)]
    exact: dict[str, str] = {}  # split to folder
    near: dict[str, str] = {}
    for name in names:
        if match := _SPLIT_NAME.fullmatch(name.lower()):
            split = _SPLITS.get(match[1], match[1])
            near.setdefault(split, name)
            if name.lower() in _SPLITS:
                exact.setdefault(split, name)
    exact |= {name.lower(): name for name in names if name.lower() in ("train", "val", "test")}
    if "train" in exact and len(exact) > 1:
        return _divided(path, exact, names)
    found = near | exact
    without_classes = flat and len(found) > 1
    if "train" not in found or not (without_classes or _holds_folders(path / found["train"])):
        return Layout({"train": path})
    if len(found) > 1 or len(names) == 1:
        return _divided(path, found, names)
    return Layout({"train": path}, doubtful=True)


def like_splits(classes: Iterable[str]) -> bool:
    """Tell whether every class is named like a split, as in a folder that was not sorted."""
    return all(_SPLIT_NAME.fullmatch(name.lower()) for name in classes)


def _divided(path: Path, parts: dict[str, str], names: list[str]) -> Layout:
    ignored = tuple(name for name in names if name not in parts.values())
    loose = sum(
        _extension(name) in _image_extensions() and not is_hidden(name, folder=False)
        for name in _names(path)
        if not (path / name).is_dir()
    )
    return Layout({split: path / name for split, name in parts.items()}, ignored, loose)


def _holds_folders(path: Path) -> bool:
    """Whether a folder holds folders and no image."""
    inside = [(name, (path / name).is_dir()) for name in _names(path)]
    shown = [(name, folder) for name, folder in inside if not is_hidden(name, folder)]
    images = any(not folder and _extension(name) in _image_extensions() for name, folder in shown)
    return any(folder for _, folder in shown) and not images


def same_name(name: str, names: Iterable[str]) -> str | None:
    """Find a name among others, also if it is written with other code points (NFC, NFD)."""
    every = list(names)
    if name in every:
        return name
    plain = normalize("NFC", name)
    return next((other for other in every if normalize("NFC", other) == plain), None)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"cannot read {printable(str(folder))}: {first_line(error)}") from None


def _identity(folder: str | Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()
