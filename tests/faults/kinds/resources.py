"""Memory ends, the clock jumps, the numbers break."""

import json
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults import oracle, traps
from tests.faults.process import Result
from tests.faults.registry import kind
from tests.faults.scene import Scene, promise

MB = 2**20


def limit_memory(extra_bytes: int, after: float = 0.0) -> Callable[[], None]:
    """Before a command: it may take so much more address space than the process has now."""

    def limit() -> None:
        if after:
            time.sleep(after)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        bound = pages * resource.getpagesize() + extra_bytes
        resource.setrlimit(resource.RLIMIT_AS, (bound, resource.RLIM_INFINITY))

    def arm() -> None:
        if after:
            threading.Thread(target=limit, daemon=True).start()
        else:
            limit()

    return arm


def one_line(scene: Scene, result: Result) -> None:
    """The command ended well, or in one line that says what to do."""
    scene.heard(result)
    if result.status:
        scene.refused(result)
        promise("delete" not in result.error, f"harmful advice: {result.error[:160]}")


@kind("memory limit from the start", "one line, or it ends; then as if undisturbed")
def from_the_start(scene: Scene) -> None:
    """`ulimit -v`, a little to 200 MB above what the imports take."""
    one_line(scene, scene.call(before=limit_memory(int(MB * 200 ** scene.rng.random()))))
    scene.completes()


@kind("memory ends while training", "one line, or it ends; then as if undisturbed")
def in_the_middle(scene: Scene) -> None:
    """Nothing more can be allocated from a random moment on."""
    moment = scene.rng.uniform(0.1, 0.9) * scene.calm.seconds
    one_line(scene, scene.call(before=limit_memory(scene.rng.choice((0, MB, 8 * MB)), moment)))
    scene.completes()


@kind("batch or model too large", "one line that names what to make smaller; nothing is left")
def too_large(scene: Scene) -> None:
    """A batch, a sequence or a model that does not fit; the limit stands for the machine's end."""
    scene.choose_text()
    word = scene.rng.choice(
        ("task.batch_size=2000000", "model.d_model=300000", "task.batch_size=200000")
    )
    result = scene.call(word, before=limit_memory(600 * MB))
    scene.refused(result, "memory")
    promise(
        result.says("batch_size", "d_model", "n_layer", "seq_len", "smaller"),
        f"does not say what to make smaller: {result.error[:160]}",
    )


@kind("clock jumps", "the run ends as if undisturbed")
def clock(scene: Scene) -> None:
    """The clock is set by an hour to 30 years, forwards or backwards."""
    by = scene.rng.choice((3600, 86400, 3.2e7, 9.4e8)) * scene.rng.choice((1, -1))
    trap = traps.clock_jump(scene.rng.uniform(0, scene.calm.seconds), by)
    if scene.rng.random() < 0.5:
        scene.expect(scene.heard(scene.call(before=trap)), 0, "with a jumping clock")
        scene.equals()
    else:
        scene.stop_after(10)
        scene.expect(scene.heard(scene.call(before=trap)), 0, "with a jumping clock")
        scene.equals()


@kind("loss not finite", "one line with step and layer, FAILED in folder and MLflow")
def not_finite(scene: Scene) -> None:
    """A learning rate that breaks the numbers."""
    rate = scene.rng.choice(("1e20", "1e30", "1e36"))
    extra = [f"optim.lr={rate}", "optim.grad_clip=1e9", "optim.warmup_steps=0"]
    result = scene.heard(scene.call(*extra))
    scene.refused(result, "finite", "nan")
    summary = json.loads((scene.run_dir / "summary.json").read_text())
    promise(summary["status"] == "FAILED", f"status is {summary['status']}")
    oracle.check_mlflow(scene.run_dir, scene.store)
