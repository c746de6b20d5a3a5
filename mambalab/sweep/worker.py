"""What the process of one job does: `mambalab __job FILE`.

The file holds the job's settings, resolved: nothing that is edited while a sweep runs changes a
job that has not begun. The end is told in a file beside it; if there is none, the process was
killed. Standard input is a pipe that the sweep holds open: when it closes, the sweep is gone, and
the job stops as if asked to by SIGTERM.
"""

import logging
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from mambalab.errors import UserError
from mambalab.sweep.processes import TRACKING_URI
from mambalab.tracking.recorder import STORE_IS_SILENT
from mambalab.utils import command, console, process
from mambalab.utils.files import read_json, write_json
from mambalab.utils.secrets import hide_password
from mambalab.utils.text import printable


def main(words: list[str]) -> int:
    """Run the job; returns its exit status, the same as that of `mambalab train`."""
    order = Path(words[0])
    job = read_json(order)
    answer = order.with_suffix(".answer.json")
    answer.unlink(missing_ok=True)
    # A sweep that was started in the background may have had SIGINT ignored; a job may not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A cluster's warning goes to every process of a job; the one above asks this one to stop.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    write_json(order.with_suffix(".process.json"), process.identity())
    if not job.get("has_log"):  # on the terminal the sweep says it, once for all jobs
        logging.getLogger("mambalab").addFilter(lambda r: not getattr(r, STORE_IS_SILENT, False))
    if job.get("watched"):
        threading.Thread(target=_stop_when_alone, daemon=True).start()
    status, reason = _train(job)
    write_json(answer, {"status": status, "reason": reason})
    return status


def _train(job: dict) -> tuple[int, str | None]:
    """Train; returns the exit status of the run, and what went wrong in one line."""
    try:
        from mambalab.config.compose import from_plain

        with console.show_log(), console.meanwhile("loading PyTorch"):
            from mambalab.runs import training

        _fill_in_password(job["config"])
        settings = from_plain(job["config"])
        with command.carried_out(job.get("command")):
            return training.run(settings), None
    except UserError as error:
        reason = " ".join(str(error).splitlines())
        if job.get("has_log"):
            print(f"mambalab: error: {printable(reason)}", file=sys.stderr)
        return 1, reason
    except KeyboardInterrupt:
        return 130, "stopped before training began"
    except Exception as error:  # a bug: its traceback is in the log, its first line in the table
        traceback.print_exc()
        lines = str(error).splitlines()
        return 1, f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _fill_in_password(config: dict) -> None:
    """Put the whole tracking address in, which the sweep passes on in the environment only."""
    whole = os.environ.pop(TRACKING_URI, None)
    tracking = config.get("tracking") or {}
    if whole is not None and tracking.get("uri") == hide_password(whole):
        tracking["uri"] = whole


def _stop_when_alone() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
