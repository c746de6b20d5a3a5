"""Many inputs in one forked process, and what came of each: a line, a traceback, a hang.

The process notes each input before it begins it. Should it hang or die, that input is known, and
the rest goes on in a new process.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT_SECONDS = 20.0
MEMORY_BYTES = 6 * 2**30  # above what the process has; a fuzzed size may not fill the machine
ESCAPE = "\x1b]0;OWNED"
INPUTS_EACH = 40


@dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        family: row of the table.
        name: tells it apart in the family, for people.
        commands: of the command line, each the words after `mambalab`.
        prepare: makes the files in the empty working directory.
    """

    family: str
    name: str
    commands: tuple[tuple[str, ...], ...]
    prepare: Callable[[Path], object] | None = None


@dataclass(frozen=True)
class Verdict:
    """What came of an input.

    Attributes:
        family: of the input.
        name: of the input.
        problem: `traceback`, `hang`, `died`, `escape` or None.
        detail: the last line of the traceback, the command.
        seconds: it took.
    """

    family: str
    name: str
    problem: str | None
    detail: str
    seconds: float


def run_all(inputs: Sequence[Input], folder: Path, *, workers: int = 2) -> Iterator[Verdict]:
    """Run all inputs in forked processes; yields verdicts as batches end."""
    waiting = [list(inputs[n : n + INPUTS_EACH]) for n in range(0, len(inputs), INPUTS_EACH)]
    running: list[_Batch] = []
    while waiting or running:
        while waiting and len(running) < workers:
            running.append(_Batch(waiting.pop(0), folder))
        for batch in list(running):
            if batch.over():
                running.remove(batch)
                verdicts, rest = batch.result()
                yield from verdicts
                if rest:
                    waiting.insert(0, rest)
        time.sleep(0.01)


class _Batch:
    def __init__(self, inputs: list[Input], folder: Path) -> None:
        self.inputs = inputs
        self.folder = Path(tempfile.mkdtemp(prefix="batch-", dir=folder))
        self.report = self.folder / "report"
        self.report.touch()
        self.began = self.seen = time.monotonic()
        self.size = 0
        self.late = False
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                _work(inputs, self.folder, self.report)
            finally:
                os._exit(0)

    def over(self) -> bool:
        if (size := self.report.stat().st_size) != self.size:
            self.size, self.seen = size, time.monotonic()
        if time.monotonic() - self.seen > LIMIT_SECONDS and not self.late:
            self.late = True
            self._kill()
        return os.waitpid(self.pid, os.WNOHANG)[0] != 0

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def result(self) -> tuple[list[Verdict], list[Input]]:
        self._kill()  # what it has left behind
        lines = self.report.read_text().splitlines()
        shutil.rmtree(self.folder, ignore_errors=True)
        verdicts = []
        for one, line in zip(self.inputs, lines, strict=False):
            problem, detail, seconds = json.loads(line)
            verdicts.append(Verdict(one.family, one.name, problem, detail, seconds))
        done = len(lines)
        if done < len(self.inputs):
            one = self.inputs[done]
            problem = "hang" if self.late else "died"
            shown = " | ".join(" ".join(words)[:200] for words in one.commands)
            verdicts.append(Verdict(one.family, one.name, problem, shown, LIMIT_SECONDS))
            done += 1
        return verdicts, self.inputs[done:]


def _work(inputs: list[Input], folder: Path, report: Path) -> None:
    output = os.open(folder / "output", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    warnings.simplefilter("ignore")
    path = list(sys.path)
    with report.open("a") as file:
        for number, one in enumerate(inputs):
            began = time.monotonic()
            place = folder / str(number)
            place.mkdir()
            os.chdir(place)
            os.ftruncate(output, 0)
            problem, detail = _one(one, place, output)
            line = [problem, detail, round(time.monotonic() - began, 3)]
            file.write(json.dumps(line) + "\n")
            file.flush()
            sys.path[:] = path
            os.chdir(folder)
            shutil.rmtree(place, ignore_errors=True)


def _one(one: Input, place: Path, output: int) -> tuple[str | None, str]:
    from mambalab.cli import main

    if one.prepare is not None:
        one.prepare(place)
    for words in one.commands:
        shown = " ".join(words)[:300]
        try:
            main.main(list(words))
        except SystemExit:
            pass
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if "mambalab" in f.filename] or frames
            where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
            said = " ".join(str(error).split())[:150]
            return "traceback", f"{type(error).__name__}: {said} ({where}) in: {shown}"
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
        size = os.fstat(output).st_size
        text = os.pread(output, min(size, 4_000_000), 0).decode(errors="replace")
        if "Traceback (most recent call last)" in text:
            last = [x for x in text.splitlines() if x and not x.startswith((" ", "mambalab"))]
            return "traceback", f"{(last or [''])[-1][:200]} in: {shown}"
        if ESCAPE in text:
            return "escape", shown
    return None, ""
