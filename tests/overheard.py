"""What processes say while they run, and what a test does once one has said it."""

import subprocess
import threading
from collections.abc import Callable, Sequence


def overhear(
    processes: Sequence[subprocess.Popen], phrase: str, then: Callable[[], object]
) -> list[str]:
    """Read the standard errors of processes to their ends; none of them is left running.

    Args:
        processes: with standard error as a pipe of text.
        phrase: words of a line.
        then: is called when one of them says them, or ends, or after a quarter of an hour.

    Returns:
        All that each of them said there.
    """
    said: list[list[str]] = [[] for _ in processes]
    heard = threading.Event()

    def listen(index: int) -> None:
        stream = processes[index].stderr
        assert stream is not None
        with stream:
            for line in stream:
                said[index].append(line)
                if phrase in line:
                    heard.set()
        heard.set()

    ears = [
        threading.Thread(target=listen, args=(index,), daemon=True)
        for index in range(len(processes))
    ]
    try:
        for ear in ears:
            ear.start()
        heard.wait(900)
        then()
        for ear in ears:
            ear.join(3600)
            assert not ear.is_alive(), f"it does not end: {said}"
        for process in processes:
            process.wait(3600)
    finally:
        for process in processes:
            process.kill()
    return ["".join(lines) for lines in said]
