"""Small files that a stranger may have made, read without harm.

A run folder, a sweep's folder or a `./conf` is data. What stands in for a file there must be one: a
pipe would wait for ever, a device never end, a link show what lies elsewhere. And what is in it
must be small enough to be looked at: a few hundred bytes of YAML can mean gigabytes.
"""

import errno
import os
import re
import stat
import struct
import zipfile
from io import BufferedReader
from pathlib import Path
from typing import Any

from mambalab.errors import UserError, first_line

MAX_BYTES = 16_000_000  # a sweep.json of 10,000 jobs is some three million
MAX_YAML_BYTES = 1_000_000  # a config.yaml is some three thousand
MAX_YAML_DEPTH = 50
MAX_YAML_NODES = 200_000  # after what `*name` repeats
_MAX_DIGITS = 300  # no number is longer; in base 60 (1:30:00) reading one takes quadratic time
_LONG_NUMBER = re.compile(r"[-+0-9:_.,a-fA-FxXoO]+")


class NotYamlError(UserError):
    """A text that is no YAML, or holds a value that its tag does not allow.

    Args:
        name: of the file.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: not YAML; the file is damaged ({reason})")
        self.reason = reason


class CannotReadError(UserError):
    """The system refuses to open a file: for want of rights, descriptors or memory, say.

    Args:
        path: the file.
        error: what the system said.
    """

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(f"cannot read {path}: {getattr(error, 'strerror', None) or error}")
        self.error = error


def open_regular(path: Path, within: Path | None = None) -> BufferedReader:
    """Open a file to read if it is one: no folder, pipe, socket or device.

    Args:
        path: the file.
        within: the folder that a link may not lead out of; None follows every link.

    Raises:
        FileNotFoundError: there is none.
        CannotReadError: the system refuses to open it.
        UserError: it is something else, or lies elsewhere.
    """
    if within is not None and not inside(path, within):
        raise UserError(f"{path}: a link leads out of {within}; put the file itself there")
    try:
        # Without waiting: a pipe that nobody writes to opens at once, and is refused.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # a NUL in the name, for one
        if getattr(error, "errno", None) == errno.ELOOP:
            raise UserError(f"{path} is a link that leads in a circle") from error
        raise CannotReadError(path, error) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a directory" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise UserError(f"{path} is {kind}, no file")
    return os.fdopen(descriptor, "rb")


def check_unpacked_size(path: Path) -> None:
    """Raise UserError if a zip, as torch.save writes them, unpacks to more bytes than it has.

    PyTorch compresses nothing, but would unpack a few megabytes to as many gigabytes. What is no
    zip is left to its reader.
    """
    try:
        with zipfile.ZipFile(path) as whole:
            unpacked = sum(part.file_size for part in whole.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, LookupError, RuntimeError, struct.error):
        return
    if unpacked > (size := path.stat().st_size):
        raise UserError(
            f"{path} would unpack to {unpacked:,} bytes from {size:,}: no file that PyTorch wrote; "
            "take one from a source that you trust"
        )


def inside(path: Path, folder: Path) -> bool:
    """Whether a path lies below a folder once all links are followed."""
    real = os.path.realpath(path)
    return os.path.commonpath([real, top := os.path.realpath(folder)]) == top


def check_no_link(path: Path) -> None:
    """Raise UserError if a place to write in is a link: its files would lie elsewhere."""
    if path.is_symlink():
        raise UserError(
            f"{path} is a link, and nothing is written through it: put the folder or file itself "
            f"there, or take the link away"
        )


def read_bytes(
    path: Path, within: Path | None = None, *, limit: int = MAX_BYTES, kind: str = "such a file"
) -> bytes:
    """Read a regular file of at most `limit` bytes; `kind` says what it is in the error.

    Raises as `open_regular`.
    """
    with open_regular(path, within) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise UserError(f"{path}: {size:,} bytes are too many for {kind}")
        try:
            return file.read(limit)
        except OSError as error:
            raise UserError(f"cannot read {path}: {first_line(error)}") from error


def read_yaml(path: Path, within: Path | None = None, *, aliases: bool = False) -> Any:
    """Read a YAML file as plain data.

    Args:
        path: the file.
        within: as in `open_regular`.
        aliases: whether `*name` is allowed.

    Raises:
        FileNotFoundError: there is none.
        NotYamlError: it is no YAML.
        UserError: it is no small regular file, or `check_yaml` refuses it.
    """
    data = read_bytes(path, within, limit=MAX_YAML_BYTES, kind="a configuration")
    try:
        return parse_yaml(data.decode("utf-8"), str(path), aliases=aliases)
    except UnicodeDecodeError as error:
        raise NotYamlError(str(path), "it is not UTF-8") from error


def parse_yaml(text: str, name: str, *, aliases: bool = False) -> Any:
    """Read YAML as plain data; raises NotYamlError, and UserError as `check_yaml`."""
    import yaml

    loaders = [getattr(yaml, "CSafeLoader", yaml.SafeLoader), yaml.SafeLoader]
    problem: Exception = ValueError()
    for loader in loaders:  # the second reads a little that the first, faster one does not
        try:
            check_yaml(text, name, aliases=aliases, loader=loader)
            return yaml.load(text, loader)
        except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
            # All but the first for a value that is not what its tag or form promises: !!int x.
            problem = error
    raise NotYamlError(name, first_line(problem)) from problem


def check_yaml(text: str, name: str, *, aliases: bool = False, loader: Any = None) -> None:
    """Check that YAML is small once it is read; builds nothing.

    Args:
        text: the YAML.
        name: of the file, for messages.
        aliases: whether `*name` is allowed.
        loader: PyYAML's class that reads it; None for the fastest.

    Raises:
        UserError: nested too deeply, too large once what `*name` means is put in its place, a
            number of hundreds of digits, or aliases that are not allowed.
        yaml.YAMLError: it is no YAML.
    """
    import yaml

    sizes: dict[str, int] = {}  # of the nodes with a name
    open_nodes: list[list[Any]] = [["", 0]]  # name and size of those around this place
    for event in yaml.parse(text, loader or getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            if not aliases:
                raise UserError(f"{name}: aliases (*name) are refused here")
            open_nodes[-1][1] += sizes.get(event.anchor, MAX_YAML_NODES)  # of itself: endless
        elif isinstance(event, yaml.ScalarEvent):
            is_text = event.implicit[1] or not _LONG_NUMBER.fullmatch(event.value)
            if len(event.value) > _MAX_DIGITS and not is_text:
                raise UserError(f"{name}: a number of {len(event.value):,} characters is refused")
            open_nodes[-1][1] += 1
            sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append([event.anchor, 1])
            if len(open_nodes) > MAX_YAML_DEPTH:
                raise UserError(f"{name}: nested more than {MAX_YAML_DEPTH} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
            sizes[anchor] = size
            open_nodes[-1][1] += size
        if open_nodes[-1][1] > MAX_YAML_NODES:
            raise UserError(f"{name}: more than {MAX_YAML_NODES:,} values are too many")
