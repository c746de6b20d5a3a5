"""What MLflow's page of a run shows beside its numbers: a description, and the data set.

The description is a person's note, and below it what mambalab writes from the folder: how well it
did, the command, the pictures, a sample of text. Whatever a person writes above the mark, in MLflow
or as `note=`, stays. MLflow's Markdown shows pictures; those of a run are reached by an address
of MLflow's server.
"""

import html
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.summary import RunSummary, Status
from mambalab.tracking.description import DESCRIPTION, cut
from mambalab.tracking.mlflow_best import BestEvaluation
from mambalab.tracking.mlflow_files import is_own
from mambalab.utils.command import as_line
from mambalab.utils.files import read_json
from mambalab.utils.text import harmless, number, printable

MARK = "<!-- below: written by mambalab, again and again -->"
MAX_CHARS = 5000  # of a tag, on servers of MLflow's older versions
MAX_SAMPLE_CHARS = 600
MAX_COLUMNS = 100  # of a sample: MLflow does not break its lines
MAX_DIGEST_CHARS = 36  # MLflow's own limit
MAX_READ_CHARS = 20_000
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^()/\\]+)\)")  # of a file beside the Markdown


class RunPage:
    """Keeps the description of an MLflow run up to date; not thread-safe.

    Args:
        run_dir: folder of a run or a sweep.
        client: of the store.
        run: as the store has it.
        note: what the person says of it; None leaves what stands there.
    """

    def __init__(self, run_dir: Path, client: Any, run: Any, note: str | None) -> None:
        self._dir = run_dir
        self._client = client
        self._run_id = run.info.run_id
        self._digests = {
            used.dataset.digest for used in (run.inputs.dataset_inputs if run.inputs else [])
        }
        stored = run.data.tags.get(DESCRIPTION)
        theirs, _, ours = (stored or "").partition(MARK)
        if note is not None and note != theirs.strip():
            self._set(joined(note, ours.strip()))

    def refresh(self, best: BestEvaluation | None) -> None:
        """Write the description anew if the folder says something else now; log the data set.

        Args:
            best: of the run or the sweep.
        """
        if (self._dir / run_folder.SWEEP).is_file():
            parts = list(_of_sweep(self._dir, self._run_id, best))
        else:
            summary = _summary(self._dir)
            self._log_data(summary)
            parts = list(_of_run(self._dir, self._run_id, summary, best))
        stored = self._client.get_run(self._run_id).data.tags.get(DESCRIPTION, "")
        theirs = stored.partition(MARK)[0].strip()
        text = joined(theirs, _fitting(parts, MAX_CHARS - len(theirs) - len(MARK) - 4))
        if text != stored:
            self._set(text)

    def _set(self, text: str) -> None:
        self._client.set_tag(self._run_id, DESCRIPTION, text)

    def _log_data(self, summary: RunSummary) -> None:
        if (used := dataset(self._dir, summary)) is None or used["digest"] in self._digests:
            return
        from mlflow.entities import Dataset, DatasetInput, InputTag

        context = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(self._run_id, [DatasetInput(Dataset(**used), context)])
        self._digests.add(used["digest"])


def joined(note: str, ours: str) -> str:
    """Return a description: the person's note, a mark, and what mambalab writes."""
    return "\n\n".join(part for part in (note, ours and f"{MARK}\n\n{ours}") if part)


def dataset(run_dir: Path, summary: RunSummary) -> dict[str, str] | None:
    """Describe a run's data as MLflow does, or return None if they have no hash.

    Args:
        run_dir: the run folder.
        summary: of the run.

    Returns:
        What `mlflow.entities.Dataset` takes. Its digest is the beginning of our sha256: MLflow has
        no room for the whole of it, which stands in the source.
    """
    data = {key: str(value) for key, value in (summary.data or {}).items()}
    described = data.pop("description", None)
    if not (digest := data.get("sha256")):
        return None
    place = data.get("path") or data.get("source", "")
    spec = _json(run_dir / run_folder.SPEC, run_dir)
    web = place.startswith(("http://", "https://"))
    profile = {"splits": described, "classes": spec.get("classes"), "steps": spec.get("seq_len"),
               "vocabulary": spec.get("vocab_size")}  # fmt: skip
    return {
        "name": str(summary.task or "data"),
        "digest": digest[:MAX_DIGEST_CHARS],
        "source_type": "http" if web else "local",
        "source": json.dumps({"url" if web else "uri": place, **data}),
        "schema": json.dumps({"mlflow_colspec": _columns(spec)}),
        "profile": json.dumps({name: value for name, value in profile.items() if value}),
    }


def _columns(spec: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the parts of an example: name and type."""
    if spec.get("vocab_size"):
        inputs = {"name": "tokens, both texts" if spec.get("pair") else "tokens", "type": "long"}
    else:
        inputs = {"name": f"steps of {spec.get('input_dim')} values", "type": "float"}
    target = "hidden token" if spec.get("masked") else "next token"
    target = "label" if spec.get("classes") else target
    return [inputs, {"name": target, "type": "long"}]


# -- the text ------------------------------------------------------------------------------------


def _of_run(
    run_dir: Path, run_id: str, summary: RunSummary, best: BestEvaluation | None
) -> Iterator[str]:
    """Write paragraphs of Markdown, the most important first."""
    results = []
    if best is not None:
        ordered = {best.metric: 0.0, **best.values}
        values = ", ".join(f"{name} **{number(best.values.get(name))}**" for name in ordered)
        results.append(f"Best: {values} at step {best.step:,}")
    if summary.test is not None:
        overall = {k: v for k, v in summary.test.metrics.items() if k.count("/") == 1}
        values = ", ".join(f"{name} **{number(value)}**" for name, value in overall.items())
        results.append(f"Test: {values}, weights of step {summary.test.step or 0:,}")
    if summary.status not in (None, Status.RUNNING):
        results.append(f"{summary.status}: {_shown(summary.reason or '')}")
    if results:
        yield "  \n".join(results)
    if summary.command:
        yield _code(summary.command)
    facts = [
        f"{summary.parameters:,} parameters" if summary.parameters else "",
        (summary.data or {}).get("description", ""),
        summary.device or "",
    ]
    if any(facts):
        yield _shown("; ".join(fact for fact in facts if fact))
    yield from _pictures(run_dir, run_id, ["plots/loss.png"])
    if samples := sorted(p for p in (run_dir / "samples").glob("*.txt") if is_own(p, run_dir)):
        text = _text(samples[-1]).strip()
        step = samples[-1].stem.rpartition("-")[2].lstrip("0") or "0"
        yield f"Sample at step {_shown(step)}:\n\n{_block(cut(text, MAX_SAMPLE_CHARS))}"
    sheets = sorted((run_dir / "samples").glob("step-*.png"))[-1:]
    yield from _pictures(run_dir, run_id, [f"samples/{path.name}" for path in sheets])
    others = sorted((run_dir / "plots").glob("test_*.png"))
    yield from _pictures(run_dir, run_id, [p.relative_to(run_dir).as_posix() for p in others])


def _of_sweep(folder: Path, run_id: str, best: BestEvaluation | None) -> Iterator[str]:
    sweep = _json(folder / run_folder.SWEEP, folder)
    if best is not None:
        value, job = number(best.values[best.metric]), _code(best.job)
        yield f"Best: {best.metric} **{value}** at step {best.step:,}, by {job}"
    if command := sweep.get("command"):
        yield _code(as_line(["train", "-m", *map(str, command)]))
    comparison = folder / "comparison" / "comparison.md"
    if is_own(comparison, folder):
        text = _PICTURE.sub(
            lambda found: _link(run_id, f"comparison/{found[2]}", found[1]), _text(comparison)
        )
        yield from text.strip().split("\n\n")


def _pictures(run_dir: Path, run_id: str, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if is_own(run_dir / name, run_dir):
            yield _link(run_id, name, Path(name).stem)


def _link(run_id: str, path: str, title: str) -> str:
    """Return Markdown for a picture among a run's artifacts."""
    return f"![{title}](get-artifact?path={quote(path, safe='')}&run_uuid={run_id})"


def _block(text: str) -> str:
    """Return lines that are shown as they are: whoever wrote them, nothing in it is Markdown."""
    lines = [
        part
        for line in harmless(text).splitlines()
        for part in textwrap.wrap(line, MAX_COLUMNS, drop_whitespace=False) or [""]
    ]
    return f"<pre><code>{html.escape(chr(10).join(lines))}</code></pre>"


def _code(text: str) -> str:
    """Return a line of code in Markdown, which MLflow breaks where there is no room."""
    text = printable(text)
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks} {text} {ticks}" if len(ticks) > 1 else f"`{text}`"


def _shown(text: str) -> str:
    return "".join(f"&#{ord(c)};" if c in "<>&*_`[]!|#~$\\" else c for c in harmless(text))


def _fitting(parts: Sequence[str], room: int) -> str:
    """Join paragraphs, as many from the beginning as there is room for."""
    text = ""
    for part in parts:
        longer = f"{text}\n\n{part}" if text else part
        if len(longer) > room:
            break
        text = longer
    return text


# -- the folder ----------------------------------------------------------------------------------


def _summary(run_dir: Path) -> RunSummary:
    try:
        return RunSummary.read(run_dir / run_folder.SUMMARY)
    except (UserError, OSError):  # damaged: the run itself says so
        return RunSummary()


def _json(path: Path, root: Path) -> dict[str, Any]:
    try:
        return read_json(path, root)
    except (UserError, OSError):
        return {}


def _text(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(MAX_READ_CHARS)
