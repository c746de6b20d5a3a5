"""Fetch one file over HTTP(S): resumable, checked, atomic, and quick to say why it cannot.

By hand, because data sets of 7.7 GB are fetched: neither huggingface_hub nor torch.hub go on with a
file when their process was killed. Built on the standard library's urllib, whose errors are
exceptions with a cause, and which reads the proxies of the environment (`https_proxy`, `no_proxy`).
"""

from __future__ import annotations

import http.client
import logging
import queue
import re
import shutil
import socket
import ssl
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mambalab.data.partial_file import DownloadError, PartialFile, locked_partial
from mambalab.data.progress import Progress, human_bytes
from mambalab.utils import files
from mambalab.utils.version import package_version

LOG = logging.getLogger("mambalab")
PATIENCE_SECONDS = 8.0
"""Seconds without any answer, or without a further byte, after which a host counts as dead."""

_READ_BYTES = 1 << 16
_WORTHWHILE_BYTES = 1 << 18  # an attempt that brought that many is worth another one
_MAX_ATTEMPTS = 20


class _Interrupted(Exception):
    """The connection ended before the file did; the message says how."""


@dataclass(frozen=True)
class _Source:
    """Where a file comes from; its size in bytes, if known, and the header Authorization."""

    url: str
    size: int | None
    authorization: str | None


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    authorization: str | None = None,
    patience: float = PATIENCE_SECONDS,
) -> None:
    """Fetch `url` to `target`; does nothing if `target` exists.

    What came before a cut connection, a kill or a full disk stays in `target` + ".part" and is
    continued by the next call (HTTP Range under the server's ETag or date: never bytes of two
    versions). Processes that want the same file take turns; the others find it there.

    Args:
        url: http or https.
        target: where the file goes, complete or not at all; its folder is made.
        sha256: of the file, in hex; None = not known, nothing is compared.
        size: of the file, in bytes; None = not known.
        authorization: header of that name; a redirect to another host is followed without it.
        patience: seconds to wait for the answer (name look-up, connection, proxy, redirects and
            headers together), and for each further byte.

    Raises:
        DownloadError: with the reason, in one line.
    """
    source = _Source(url, size, authorization)
    with locked_partial(target) as part:
        if part is None:
            return
        continued = part.size > 0
        _transfer(source, part, patience)
        if sha256 is not None and files.sha256(part.path) != sha256:
            if continued:
                # The bytes of the earlier call may be at fault: once more from the beginning.
                part.restart(url, None)
                _transfer(source, part, patience)
            came = files.sha256(part.path)
            if came != sha256:
                count = part.size
                part.restart(url, None)
                raise DownloadError(
                    f"what {url} sent ({count:,} bytes, sha256 {came}) is not the expected file "
                    f"(sha256 {sha256}); a proxy or a login page may have answered"
                )
        part.publish()


def _transfer(source: _Source, part: PartialFile, patience: float) -> None:
    """Bring `part` to the end of the file, over as many connections as are worth trying."""
    for attempt in range(1, _MAX_ATTEMPTS + 1):
        before = part.size
        try:
            return _attempt(source, part, patience)
        except _Interrupted as error:
            if part.size - before < _WORTHWHILE_BYTES or attempt == _MAX_ATTEMPTS:
                raise DownloadError(
                    f"{error} after {part.size:,} bytes of {source.url}; they are kept in "
                    f"{part.path}: run the same command again to continue"
                ) from None
            size = human_bytes(part.size)
            LOG.info("%s: %s; continuing at %s", part.target.name, error, size)
    raise AssertionError("the last attempt returns or raises")


def _attempt(source: _Source, part: PartialFile, patience: float) -> None:
    """One connection: continue the part file if the server still has that version, else anew."""
    url, size = source.url, source.size
    headers = {"User-Agent": f"mambalab/{package_version()}", "Accept-Encoding": "identity"}
    validator = part.origin(url)
    offset = part.size if validator is not None else 0
    if offset and validator is not None:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    if source.authorization is not None:
        headers["Authorization"] = source.authorization
    try:
        response = open_url(urllib.request.Request(url, headers=headers), patience)
    except urllib.error.HTTPError as error:
        with error:
            if offset and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.restart(url, None)
                return _attempt(source, part, patience)
            raise DownloadError(f"{url}: HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(reason(error, url, patience)) from None
    with response:
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            total = _range_total(response, offset)
            if offset == 0 or total is None:
                raise DownloadError(f"{url}: the server sent a part of the file nobody asked for")
        elif response.status == HTTPStatus.OK:
            total = _number(response.headers.get("Content-Length"))
            offset = 0
        else:
            raise DownloadError(f"{url}: unexpected HTTP {response.status} {response.reason}")
        if None not in (size, total) and size != total:
            raise DownloadError(
                f"{url} offers {total:,} bytes where {size:,} were expected; a proxy or a login "
                "page may have answered"
            )
        if offset == 0:
            part.restart(url, _validator(response))
        total = total or size
        _check_space(part, total)
        with Progress(part.target.name, offset, total) as progress:
            _copy(response, part, total, patience, progress)
        return None


def _copy(
    response: http.client.HTTPResponse,
    part: PartialFile,
    total: int | None,
    patience: float,
    progress: Progress,
) -> None:
    received = part.size
    while True:
        try:
            data = response.read1(_READ_BYTES)
        except TimeoutError:
            raise _Interrupted(f"nothing came for {patience:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(
                f"the connection was cut ({error or type(error).__name__})"
            ) from None
        if not data:
            break
        part.append(data)
        received += len(data)
        progress.advance(len(data))
    if total is not None and received < total:
        raise _Interrupted("the connection was cut")


def open_url(request: urllib.request.Request, patience: float) -> http.client.HTTPResponse:
    """Open `request` and wait for its answer, no longer than `patience` seconds in all.

    A socket's timeout bounds neither the name look-up nor the sum over a host's addresses (each
    is tried for as long), so the request runs in a thread that is abandoned when time is up.
    """
    outcome: queue.SimpleQueue[http.client.HTTPResponse | Exception] = queue.SimpleQueue()
    abandoned = threading.Event()

    def ask() -> None:
        try:
            answer = _opener().open(request, timeout=patience)
        except Exception as error:  # handed to the caller, who knows what to make of it
            outcome.put(error)
            return
        if abandoned.is_set():
            answer.close()
        else:
            outcome.put(answer)

    threading.Thread(target=ask, name="download", daemon=True).start()
    try:
        answer = outcome.get(timeout=patience)
    except queue.Empty:
        abandoned.set()
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _opener() -> urllib.request.OpenerDirector:
    """Build urllib's usual handlers, with certificates also where Python itself has none (the macOS
    installer's Python, slim images)."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile is not None or paths.capath is not None:
        return urllib.request.build_opener(_TokenStaysAtHome)
    import certifi  # comes with mlflow

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    https = urllib.request.HTTPSHandler(context=context)
    return urllib.request.build_opener(_TokenStaysAtHome, https)


class _TokenStaysAtHome(urllib.request.HTTPRedirectHandler):
    """Follows redirects, to another host without the header Authorization."""

    def redirect_request(self, req: urllib.request.Request, *answer: Any) -> Any:
        following = super().redirect_request(req, *answer)
        if following and (following.type, following.host) != (req.type, req.host):
            following.remove_header("Authorization")
        return following


def reason(error: Exception, url: str, patience: float) -> str:
    """Say in one line why an exception kept an answer from coming."""
    cause = error
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        cause = error.reason
    proxy = _proxy(url)
    host = f"the proxy {proxy}" if proxy else str(urlsplit(url).hostname)
    if isinstance(cause, TimeoutError):
        return f"no answer from {host} within {patience:g} s (no network, or a firewall?)"
    if isinstance(cause, socket.gaierror):
        return f"the name of {host} cannot be resolved (no network?)"
    if isinstance(cause, ConnectionRefusedError):
        return f"{host} refused the connection"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate of {host} cannot be trusted ({cause.verify_message})"
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause)
    return f"no connection to {host}: {' '.join(text.split()) or type(cause).__name__}"


def _proxy(url: str) -> str | None:
    """Host and port of the proxy that the environment sets for `url` (not its password)."""
    parts = urlsplit(url)
    address = urllib.request.getproxies().get(parts.scheme)
    if not address or urllib.request.proxy_bypass(parts.netloc):
        return None
    return address.rpartition("//")[2].rpartition("@")[2].rstrip("/")


def _validator(response: http.client.HTTPResponse) -> str | None:
    """What names this version of the file in If-Range: a strong ETag, else the date."""
    tag = response.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    return response.headers.get("Last-Modified")


def _range_total(response: http.client.HTTPResponse, offset: int) -> int | None:
    """Size of the complete file if the answer is the range from `offset` to its end."""
    match = re.fullmatch(
        r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip()
    )
    if not match:
        return None
    first, last, total = map(int, match.groups())
    return total if first == offset and last == total - 1 else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _check_space(part: PartialFile, total: int | None) -> None:
    if total is None:
        return
    free = shutil.disk_usage(part.path.parent).free
    needed = total - part.size
    if free < needed:
        raise DownloadError(
            f"the disk is full: {human_bytes(needed)} more are needed in {part.path.parent}, "
            f"{human_bytes(free)} are free"
        )
