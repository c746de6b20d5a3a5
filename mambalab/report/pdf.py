"""A page as PDF, printed by a browser that is installed here, without its window."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from mambalab.errors import UserError
from mambalab.utils.files import replacing
from mambalab.utils.text import short

BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome"),
    *("microsoft-edge", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
MAX_SECONDS = 120.0  # usually 3
BY_HAND = "write the page without format=pdf, open it in a browser and print it to a PDF there"
_QUIET = (  # it prints one page and asks nobody for anything
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--no-default-browser-check", "--no-pdf-header-footer"),
)


def browser() -> str:
    """Find a browser that can print; raises UserError if there is none."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise UserError(f"format=pdf: no Chromium, Chrome or Edge is installed here: {BY_HAND}")


def write(page: str, target: Path) -> Path:
    """Print a page to a PDF file; returns its path.

    Args:
        page: as HTML that needs no other file.
        target: the PDF; an older one is replaced in one step.

    Raises:
        UserError: there is no browser, or it fails.
        OSError: the file cannot be written.
    """
    program = browser()
    with tempfile.TemporaryDirectory(prefix="mambalab-", ignore_cleanup_errors=True) as folder:
        source, printed = Path(folder, "report.html"), Path(folder, "report.pdf")
        source.write_text(page, encoding="utf-8")
        options = [*_QUIET, f"--user-data-dir={folder}/profile", f"--print-to-pdf={printed}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            options.append("--no-sandbox")  # Chromium refuses to start for root with it
        _call([program, *options, source.as_uri()])
        if not printed.is_file() or not printed.read_bytes().startswith(b"%PDF-"):
            raise UserError(f"format=pdf: {program} wrote no PDF: {BY_HAND}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            shutil.copyfile(printed, partial)
    return target


def _call(command: list[str]) -> None:
    """Run a browser to its end; raises UserError if it fails or takes too long."""
    program = command[0]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a group of its own: it is stopped as a whole
        )
    except OSError as error:
        raise UserError(
            f"format=pdf: cannot start {program} ({error.strerror}): {BY_HAND}"
        ) from error
    with process:
        try:
            _, written = process.communicate(timeout=MAX_SECONDS)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise UserError(
                f"format=pdf: {program} took more than {MAX_SECONDS:g} seconds: {BY_HAND}"
            ) from None
        except BaseException:
            _kill(process)
            raise
    if process.returncode:
        lines = written.decode("utf-8", "replace").split("\n")
        said = short(next((line for line in reversed(lines) if line.strip()), "no word"), 200)
        raise UserError(f"format=pdf: {program} failed ({said}): {BY_HAND}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
