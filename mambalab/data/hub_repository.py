"""Repositories of models on the hub: their files listed, and fetched one by one."""

import json
import re
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambalab.data.download import PATIENCE, DownloadError, download, open_url, reason
from mambalab.data.hub_images import endpoint, preflight
from mambalab.errors import UserError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Listing:
    """Files of a repository of the hub at one revision.

    Attributes:
        address: of the repository, for people.
        base: address of its files, up to the name.
        files: name to size and sha256, each None if the hub does not say.
    """

    address: str
    base: str
    files: dict[str, tuple[int | None, str | None]]

    def fetch(self, file: str, folder: Path) -> None:
        """Bring one file into `folder`; does nothing if it is there.

        Raises:
            DownloadError: with the reason.
        """
        size, sha256 = self.files.get(file, (None, None))
        download(f"{self.base}/{file}", folder / file, sha256=sha256, size=size)


def is_repository(name: str) -> bool:
    """Whether `name` could be that of a repository on the hub: owner/name."""
    return _REPOSITORY.fullmatch(name) is not None


def list_files(name: str) -> Listing:
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
    return Listing(address, f"{address}/resolve/{revision}", files)


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


class Explained:
    """Completes the reason why something cannot be fetched with what to do.

    Args:
        key, name: the setting and its value.
        wanted: the files, in words.
        folder: where they go.
    """

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


def read_json(path: Path, kind: str | None = None) -> dict[str, Any]:
    """The object in a JSON file of such a repository.

    Args:
        path: of the file.
        kind: what it should be, where its name does not say so.

    Raises:
        UserError: absent, unreadable, or no object.
    """
    wrong = "is damaged" if kind is None else f"is no {kind}"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {path.parent} is no checkpoint") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} {wrong}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} {wrong}: no JSON object")
    return content
