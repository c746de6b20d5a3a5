"""What one of several processes does that train a model together: `mambalab __rank`.

The environment holds its orders (runs/launch.py). It says how it ended in a file; should the
process that started it be gone, it stops as if asked to by SIGTERM.
"""

import json
import os
import signal
import threading
import time
import traceback
from pathlib import Path

from mambalab.errors import UserError
from mambalab.utils import command, console, torchrun
from mambalab.utils.files import write_json

_SECONDS = 1.0  # between two looks at whether the launcher lives


def main(words: list[str]) -> int:
    """Train; returns the exit status, the same as that of `mambalab train`."""
    from mambalab.runs import launch

    del words
    place = torchrun.place()
    if place is None or launch.ORDER not in os.environ:
        raise UserError("__rank is for mambalab itself: give mambalab train trainer.devices=K")
    threading.Thread(target=_stop_when_alone, args=(os.getppid(),), daemon=True).start()
    order = json.loads(os.environ.pop(launch.ORDER))
    answer = Path(os.environ[launch.ANSWERS]) / f"{place.rank}.json"
    status, reason = _train(order)
    write_json(answer, {"status": status, "reason": reason})
    return status


def _train(order: dict) -> tuple[int, str | None]:
    """Train; returns the exit status of the run, and what went wrong in one line."""
    from mambalab.config.compose import from_plain
    from mambalab.runs import training

    try:
        with console.show_log(), command.carried_out(order.get("command")):
            _, summary = training.train(from_plain(order["config"]))
            return training.EXIT_STATUS.get(summary.ended_by, 0), None
    except UserError as error:
        return 1, " ".join(str(error).splitlines())
    except KeyboardInterrupt:
        return 130, "stopped before training began"
    except Exception as error:  # a bug: its traceback is shown, its first line told
        traceback.print_exc()
        lines = str(error).splitlines()
        return 1, f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _stop_when_alone(parent: int) -> None:
    """Ask this process to stop once its parent is another: the launcher was killed."""
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
