"""The Hugging Face hub: what a repository holds, files fetched from it, or found in its cache here.

`huggingface_hub` asks (mirrors, tokens and cache are by its rules), `data.download` brings the
bytes: the library (2.4) forgets what had come when its process dies, and compares no checksum.
"""

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from mambalab.data.download import LOG, PATIENCE_SECONDS, DownloadError, download, open_url, reason
from mambalab.errors import UserError
from mambalab.utils.reading import read_bytes
from mambalab.utils.version import package_version

Kind = Literal["model", "dataset"]
PREFLIGHT_SECONDS = 6.0
"""Seconds for the hub's first answer: with the start of a command, a dead network shows in ten."""

_REPOSITORY = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MAX_JSON_BYTES = 200_000_000  # the largest tokenizer.json known is some 35 million
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


@dataclass(frozen=True)
class Listing:
    """Files of a repository of the hub at one revision.

    Attributes:
        address: of the repository, for people.
        base: address of its files, up to the name.
        files: name to size in bytes and sha256, each None if the hub does not say.
        authorization: header that goes with each request; None = the hub knows us by no token.
    """

    address: str
    base: str
    files: dict[str, tuple[int | None, str | None]]
    authorization: str | None = field(default=None, repr=False)

    def fetch(self, file: str, target: Path) -> None:
        """Bring one file to the path `target`, checked; does nothing if that exists.

        Raises:
            DownloadError: with the reason.
        """
        if file not in self.files:
            raise DownloadError(f"{self.address} has no {file}")
        size, sha256 = self.files[file]
        url = f"{self.base}/{quote(file)}"
        download(url, target, sha256=sha256, size=size, authorization=self.authorization)


def endpoint() -> str:
    """The hub's address, without a slash at its end."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def is_repository(name: str) -> bool:
    """Whether `name` could be that of a repository on the hub: owner/name."""
    return _REPOSITORY.fullmatch(name) is not None


def preflight() -> None:
    """See in a few seconds whether the hub answers: the library takes minutes to find out.

    Raises:
        DownloadError: it does not, or is not to be asked.
    """
    for name in _OFFLINE:
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise DownloadError(f"{name}={os.environ[name]} forbids the network")
    url = endpoint()
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"HF_ENDPOINT={url} is no http(s) address")
    try:
        open_url(urllib.request.Request(url, method="HEAD"), PREFLIGHT_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()  # an answer is an answer
    except Exception as error:
        raise DownloadError(reason(error, url, PREFLIGHT_SECONDS)) from None


def list_files(name: str, kind: Kind = "model") -> Listing:
    """Ask the hub what a repository holds now.

    Raises:
        DownloadError: it does not answer, or knows no such repository that we may read.
    """
    preflight()
    # Else the library asks the hub for a list of programs that may be running it.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi
    from huggingface_hub.utils import build_hf_headers

    api = HfApi(endpoint(), library_name="mambalab", library_version=package_version())
    ask = api.model_info if kind == "model" else api.dataset_info
    address = f"{endpoint()}/{'' if kind == 'model' else 'datasets/'}{name}"
    authorization = build_hf_headers().get("authorization")
    try:
        info = ask(name, files_metadata=True, timeout=PATIENCE_SECONDS)
    except Exception as error:  # as many kinds as networks have ways to fail
        answer = getattr(error, "response", None)
        status = getattr(answer, "status_code", None)
        if status in (401, 403, 404):
            who = "public " if authorization is None else ""
            raise DownloadError(f"{endpoint()} has no {who}{kind} {name}") from None
        if status is not None:
            raise DownloadError(f"{address}: HTTP {status}") from None
        if isinstance(error, (ValueError, KeyError, TypeError, AttributeError)):
            raise DownloadError(_no_list(address)) from None
        raise DownloadError(reason(error, endpoint(), PATIENCE_SECONDS)) from None
    if info.sha is None or info.siblings is None:
        raise DownloadError(_no_list(address))
    if info.gated and authorization is None:
        raise DownloadError(f"{address} is gated: accept its terms there, then `hf auth login`")
    files = {f.rfilename: (f.size, f.lfs.sha256 if f.lfs else None) for f in info.siblings}
    return Listing(address, f"{address}/resolve/{info.sha}", files, authorization)


def _no_list(address: str) -> str:
    return f"{address} sent no list of files; is {endpoint()} a mirror of the hub?"


def snapshots(name: str, kind: Kind = "model") -> list[Path]:
    """The folders of a repository's revisions in the cache that Hugging Face's libraries share.

    The one last known as `main` comes first, then the newest. Nothing is fetched, so a revision
    may lack files.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE, f"{kind}s--{name.replace('/', '--')}")
    with suppress(OSError):  # no such cache, or none that we may read
        times = {path: path.stat().st_mtime for path in (folder / "snapshots").iterdir()}
        main = folder / "refs" / "main"  # absent where a library noted the revision alone
        named = main.read_text().strip() if main.is_file() else ""
        return sorted(times, key=lambda path: (path.name == named, times[path]), reverse=True)
    return []


def local(name: str, key: str, what: str) -> Path | None:
    """The folder that the setting `key` names; None if it has to be a repository, owner/name.

    Raises:
        UserError: it is neither; `what` says what it could be.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{key}={name} is a file: name {what}")
    if not is_repository(name):
        raise UserError(f"{key}={name}: there is no such folder; name {what}, or owner/name")
    return None


@contextmanager
def explain_failure(
    key: str, name: str, wanted: str, folder: Path, address: str | None = None
) -> Iterator[None]:
    """Complete the reason why something cannot be fetched with what to do.

    Args:
        key: the setting that names the repository.
        name: its value.
        wanted: the files, in words.
        folder: where they go.
        address: of the repository for people; None = that of a model of this name.

    Raises:
        UserError: in place of a DownloadError of the block.
    """
    if not folder.exists():
        LOG.info("%s=%s: no such folder here, asking the hub", key, name)
    address = address or f"{endpoint()}/{name}"
    try:
        yield
    except DownloadError as error:
        raise UserError(
            f"{key}={name}: no such folder, and it cannot be fetched: {error}. Put {wanted} of "
            f"{address} into {folder}, or name a folder that has them with {key}=FOLDER"
        ) from None


def read_json(path: Path, kind: str | None = None) -> dict[str, Any]:
    """Read the object in a JSON file of such a repository.

    Args:
        path: of the file.
        kind: what it should be, where its name does not say so.

    Raises:
        UserError: absent, unreadable, or no object.
    """
    wrong = "is damaged" if kind is None else f"is no {kind}"
    try:
        content = json.loads(read_bytes(path, limit=MAX_JSON_BYTES))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {path.parent} is no checkpoint") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} {wrong}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} {wrong}: no JSON object")
    return content
