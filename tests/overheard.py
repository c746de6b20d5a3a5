"""What processes say while they run, and what a test does once one has said it."""

import subprocess
import threading
from collections.abc import Callable, Sequence


def overhear(
    processes: Sequence[subprocess.Popen], phrase: str, then: Callable[[], object]
) -> list[str]:
    """Read the standard errors of processes to their ends.

    Args:
        processes: with standard error as a pipe of text.
        phrase: words of a line.
        then: is called when the first process says them, or after five minutes in which none did.

    Returns:
        All that each of them said there.
    """
    said: list[list[str]] = [[] for _ in processes]
    heard = threading.Lock()

    def listen(index: int) -> None:
        stream = processes[index].stderr
        assert stream is not None
        with stream:
            for line in stream:
                said[index].append(line)
                if phrase in line and heard.acquire(blocking=False):
                    then()

    ears = [threading.Thread(target=listen, args=(index,)) for index in range(len(processes))]
    for ear in ears:
        ear.start()
    for ear in ears:
        ear.join(300)
        if ear.is_alive() and heard.acquire(blocking=False):
            then()
        ear.join()
    return ["".join(lines) for lines in said]
