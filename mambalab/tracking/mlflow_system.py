"""What the machine does while a run trains: load of the processor, memory.

Read from the operating system by the thread that feeds MLflow, every ten seconds; kept in MLflow
only. MLflow's own monitor needs psutil, which MLflow does not bring.
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from mambalab.tracking.mlflow_names import SYSTEM

PERIOD_SECONDS = 10.0
_PROC = Path("/proc")


class SystemMonitor:
    """Reads the machine's load now and then; named as MLflow's own monitor does."""

    def __init__(self) -> None:
        self._due = time.monotonic()
        self._ticks = _processor_ticks()
        self._own = _own_seconds()

    def due(self) -> bool:
        """Whether it is time for another look."""
        return time.monotonic() >= self._due

    def look(self) -> dict[str, float]:
        """Return what is known now: shares since the last look in percent, memory in megabytes.

        Where the operating system does not say it, on all but Linux, that is this process's use
        of the processor alone (100 is one core).
        """
        self._due = time.monotonic() + PERIOD_SECONDS
        found: dict[str, float] = {}
        before, self._ticks = self._ticks, _processor_ticks()
        if before is not None and self._ticks is not None and self._ticks[1] > before[1]:
            busy, total = (now - then for now, then in zip(self._ticks, before, strict=True))
            found["cpu_utilization_percentage"] = 100 * busy / total
        earlier, self._own = self._own, _own_seconds()
        if self._own[1] > earlier[1]:
            used, passed = (now - then for now, then in zip(self._own, earlier, strict=True))
            found["process_cpu_percentage"] = 100 * used / passed
        found |= _memory()
        return {f"{SYSTEM}{name}": round(value, 1) for name, value in found.items()}


def _own_seconds() -> tuple[float, float]:
    """Return processor time of this process, and the time that passes."""
    return time.process_time(), time.monotonic()


def _processor_ticks() -> tuple[int, int] | None:
    """Return the ticks in which the machine's cores worked, and all; None if that is not known."""
    with suppress(OSError, ValueError):
        ticks = [int(n) for n in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
        if len(ticks) >= 5:
            return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # the 4th and 5th: idle, or waiting
    return None


def _memory() -> dict[str, float]:
    found: dict[str, float] = {}
    with suppress(OSError, ValueError, KeyError):
        lines = (_PROC / "meminfo").read_text().splitlines()
        kilobytes = {
            name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)
        }
        used = kilobytes["MemTotal"] - kilobytes["MemAvailable"]
        found["system_memory_usage_megabytes"] = used / 1000
        found["system_memory_usage_percentage"] = 100 * used / kilobytes["MemTotal"]
    with suppress(OSError, ValueError, AttributeError):
        pages = int((_PROC / "self" / "statm").read_text().split()[1])
        found["process_memory_megabytes"] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    torch = sys.modules.get("torch")  # whoever trains on a GPU has it loaded
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        number = torch.cuda.current_device()
        found[f"gpu_{number}_memory_usage_megabytes"] = torch.cuda.memory_reserved(number) / 1e6
    return found
