"""Where checkpoints lie: a folder of the user's, or one below data_dir, filled from the hub."""

import json
import re
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.pretrained import weights
from mambalab.pretrained.layout import CONFIG
from mambalab.tasks.download import PATIENCE, DownloadError, download, open_url, reason
from mambalab.tasks.hub import endpoint, preflight

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
NEOX = "EleutherAI/gpt-neox-20b"  # whose tokens the original Mamba models were trained on
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class _Listing:
    """Files of a repository of the hub at one revision.

    Attributes:
        address: of the repository, for people.
        base: address of its files, up to the name.
        files: name to size and sha256, each None if the hub does not say.
    """

    address: str
    base: str
    files: dict[str, tuple[int | None, str | None]]


def is_repository(name: str) -> bool:
    """Whether `name` could be that of a repository on the hub: owner/name."""
    return _REPOSITORY.fullmatch(name) is not None


def checkpoint(name: str, data_dir: Path) -> Path:
    """The folder of a checkpoint, complete.

    Args:
        name: of a folder, or owner/name on the hub; that one is looked for in
            `data_dir`/pretrained/owner/name first, and what it lacks is fetched there.
        data_dir: folder of the data sets.

    Raises:
        UserError: no such folder, a missing shard, or it cannot be fetched: with the reason and
            what to put where.
    """
    folder = _local(name, "pretrained", "the folder of a checkpoint")
    if folder is not None:
        return folder
    folder = (data_dir / "pretrained" / name).absolute()
    if (folder / CONFIG).is_file() and _complete(folder):
        return folder
    wanted = f"{CONFIG} and {weights.WHOLE[0]} (or {weights.WHOLE[1]})"
    with _Explained("pretrained", name, wanted, folder):
        listing = _list(name)
        if CONFIG not in listing.files:
            raise DownloadError(f"{listing.address} has no {CONFIG}")
        _fetch(listing, CONFIG, folder)
        for file in (TOKENIZER, TOKENIZER_CONFIG):
            if file in listing.files:
                _fetch(listing, file, folder)
        for file in _weights(listing, folder):
            _fetch(listing, file, folder)
    return folder


def tokenizer(name: str, data_dir: Path) -> Path:
    """The tokenizer.json that `name` stands for: a file, a folder that has it, or owner/name on
    the hub (kept in `data_dir`/tokenizers).

    Raises:
        UserError: as `checkpoint`.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    folder = _local(name, "tokenizer", f"a {TOKENIZER}, or a folder that has it")
    if folder is None:
        below = name.partition("/")[2] if name == NEOX else name
        folder = (data_dir / "tokenizers" / below).absolute()
        if not (folder / TOKENIZER).is_file():
            with _Explained("tokenizer", name, TOKENIZER, folder):
                listing = _list(name)
                if TOKENIZER not in listing.files:
                    raise DownloadError(f"{listing.address} has no {TOKENIZER}")
                if TOKENIZER_CONFIG in listing.files:
                    _fetch(listing, TOKENIZER_CONFIG, folder)
                _fetch(listing, TOKENIZER, folder)
    if not (folder / TOKENIZER).is_file():
        raise UserError(f"tokenizer={name}: there is no {TOKENIZER} in {folder}")
    return folder / TOKENIZER


def _local(name: str, key: str, what: str) -> Path | None:
    """The folder of this name; None if it has to be one of the hub."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{key}={name} is a file: name {what}")
    if not is_repository(name):
        raise UserError(f"{key}={name}: there is no such folder; name {what}, or owner/name")
    return None


def _complete(folder: Path) -> bool:
    """Whether the weights are here; an index whose shards are still to come is not enough."""
    try:
        return bool(weights.files(folder))
    except UserError:
        return False


class _Explained:
    """Completes the reason why something cannot be fetched with what to do."""

    def __init__(self, key: str, name: str, wanted: str, folder: Path) -> None:
        self.key, self.name, self.wanted, self.folder = key, name, wanted, folder

    def __enter__(self) -> None:
        if not self.folder.exists():
            print(f"{self.key}={self.name}: no such folder here, asking the hub", file=sys.stderr)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, DownloadError):
            raise UserError(
                f"{self.key}={self.name}: no such folder, and it cannot be fetched: {error}. Put "
                f"{self.wanted} of {endpoint()}/{self.name} into {self.folder}, or name a folder "
                f"that has them with {self.key}=FOLDER"
            ) from None


def _list(name: str) -> _Listing:
    """Ask the hub what a repository holds now.

    Raises:
        DownloadError: it does not answer, or knows no such public repository.
    """
    preflight()
    url = f"{endpoint()}/api/models/{name}?blobs=true"
    try:
        with open_url(urllib.request.Request(url), PATIENCE) as answer:
            content = json.loads(answer.read())
        revision = content["sha"]
        files = {
            entry["rfilename"]: (entry.get("size"), (entry.get("lfs") or {}).get("sha256"))
            for entry in content["siblings"]
        }
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403, 404):
            raise DownloadError(f"{endpoint()} has no public model {name}") from None
        raise DownloadError(f"{url}: HTTP {error.code} {error.reason}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DownloadError(f"{url} sent no list of files; is it a mirror of the hub?") from None
    except Exception as error:  # as many kinds as networks have ways to fail
        raise DownloadError(reason(error, url, PATIENCE)) from None
    address = f"{endpoint()}/{name}"
    return _Listing(address, f"{address}/resolve/{revision}", files)


def _weights(listing: _Listing, folder: Path) -> list[str]:
    """The files to fetch for the weights; an index is fetched at once."""
    for whole in weights.WHOLE:
        if whole in listing.files:
            return [whole]
        index = whole + weights.INDEX
        if index in listing.files:
            _fetch(listing, index, folder)
            return weights.shards(folder / index)
    raise DownloadError(f"{listing.address} has neither {' nor '.join(weights.WHOLE)}")


def _fetch(listing: _Listing, file: str, folder: Path) -> None:
    size, sha256 = listing.files.get(file, (None, None))
    download(f"{listing.base}/{file}", folder / file, sha256=sha256, size=size)
