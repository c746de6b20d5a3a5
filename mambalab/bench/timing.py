"""Fair timings on a noisy machine: contenders take turns, medians are compared."""

import gc
import time
from collections.abc import Callable
from statistics import median

import torch


def clock(device: torch.device) -> float:
    """Seconds now, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def in_turns(
    contenders: dict[str, Callable[[], object]],
    device: torch.device,
    seconds: float,
    least: int = 3,
    most: int = 200,
) -> dict[str, list[float]]:
    """Seconds of each call of each contender.

    All are warmed up, then called in turns, so that a disturbance meets all of them, until each
    has had `seconds` (a slow one gets fewer turns than a fast one) or `most` calls; each is called
    at least `least` times.
    """
    for function in contenders.values():
        function()
        function()
    gc.collect()
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    while True:
        waiting = [
            name
            for name, times in taken.items()
            if len(times) < least or (sum(times) < seconds and len(times) < most)
        ]
        if not waiting:
            return taken
        for name in waiting:
            start = clock(device)
            contenders[name]()
            taken[name].append(clock(device) - start)


def milliseconds(times: list[float]) -> float:
    """The median, in milliseconds."""
    return 1e3 * median(times)
