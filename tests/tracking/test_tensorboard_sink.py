import math
import subprocess
import sys

import numpy as np
import pytest

from mambalab.errors import UserError
from mambalab.settings.train import TrackingKind, TrackingSettings
from mambalab.tracking import recorder as tracking
from mambalab.tracking import sink
from mambalab.tracking.note import Note
from mambalab.tracking.recorder import Recorder
from mambalab.utils import packages
from tests.tracking.stores import points_in_folder

pytest.importorskip("tensorboard", reason="TensorBoard is not installed")

PARAMS = {
    "task": {"name": "toy"},
    "optim": {"lr": 0.5},
    "bidirectional": True,
    "betas": [0.9, 0.95],
    "note": "a remark",
    "name": None,
}
PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x03\x00\x00\x00\x02\x08\x02\x00\x00\x00"
    b"\x12\x16\xf1M"
)


def settings(uri=None, experiment_name=None):
    return TrackingSettings(TrackingKind.tensorboard, uri, experiment_name)


@pytest.fixture
def said():
    return []


@pytest.fixture
def recorder(tmp_path, said, monkeypatch):
    """A function that opens a recorder on the same run folder; all are closed at the end."""
    monkeypatch.setattr(sink, "PERIOD_SECONDS", 0.02)
    monkeypatch.setattr(sink, "PAUSE_SECONDS", (0.05,))
    opened = []

    def show(line, extra=None):
        said.append(line)

    def build(*, resume: bool = False) -> Recorder:
        it = Recorder(tmp_path / "run", settings(), output_dir=tmp_path, announce=show)
        it.start(params=PARAMS, tags={}, resume=resume)
        opened.append(it)
        return it

    yield build
    for it in opened:
        it.finish("KILLED")


def read_back(run_dir):
    """What TensorBoard itself reads of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0})
    return found.Reload()


def points(events) -> list[tuple]:
    found = [
        (tag, event.step, None if math.isnan(event.value) else event.value)
        for tag in events.Tags()["scalars"]
        for event in events.Scalars(tag)
    ]
    return sorted(found, key=str)


def kept(run_dir) -> list[tuple]:
    """The points of the run folder as an event file keeps them: with 24 bits."""
    found = points_in_folder(run_dir)
    return [(k, step, v if v is None else float(np.float32(v))) for k, step, v in found]


def record(it, steps):
    for step in steps:
        it.metrics(step, {"train/loss": step / 4, "time/seconds": step / 2})
        if step % 10 == 0:
            it.metrics(step, {"val/loss": math.nan if step == 20 else step / 8})


def test_event_files_hold_what_the_run_folder_holds(recorder, tmp_path, said):
    run_dir = tmp_path / "run"
    it = recorder()
    record(it, range(1, 31))
    files = {"samples/step-00000010.txt": b"To be\nor not", "plots/loss.png": PNG}
    files["samples/step-00000020.png"] = PNG
    files |= {"samples/mine.png": PNG, "samples/notes.txt": b"my own"}
    for name, data in files.items():
        (run_dir / name).parent.mkdir(exist_ok=True)
        (run_dir / name).write_bytes(data)
        it.artifact(run_dir / name)
    (run_dir / "summary.json").write_text('{"status": "FINISHED"}')
    it.finish("FINISHED")
    events = read_back(run_dir)
    assert points(events) == points_in_folder(run_dir)
    assert len(points(events)) == 63
    (sample,) = events.Tensors("samples/text_summary")
    assert (sample.step, sample.tensor_proto.string_val[0]) == (10, b"    To be\n    or not")
    (sheet,) = events.Images("samples")
    assert (sheet.step, sheet.encoded_image_string) == (20, PNG)
    assert (
        len(events.Images("samples/mine")) == len(events.Tensors("samples/notes/text_summary")) == 1
    )
    (picture,) = events.Images("plots/loss")
    assert (picture.width, picture.height, picture.encoded_image_string) == (3, 2, PNG)
    assert {"run/text_summary", "summary/text_summary"} <= set(events.Tags()["tensors"])
    times = [event.wall_time for event in events.Scalars("train/loss")]
    assert times[-1] - times[0] == pytest.approx(29 / 2, abs=1e-3)
    assert Note.read(run_dir, "tensorboard_run.json").state == "complete"
    assert said == []


def test_settings_are_hyperparameters(recorder, tmp_path):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    recorder().finish("FINISHED")
    metadata = read_back(tmp_path / "run").SummaryMetadata("_hparams_/session_start_info")
    held = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    assert held["optim.lr"].number_value == 0.5
    assert held["bidirectional"].bool_value is True
    assert held["betas"].string_value == "0.9, 0.95"
    assert "note" not in held


def test_a_resumed_run_has_each_point_once(recorder, tmp_path):
    run_dir = tmp_path / "run"
    for session in range(4):
        it = recorder(resume=session > 0)
        record(it, range(10 * session + 1, 10 * session + 31))
        it.finish("KILLED")
        assert points(read_back(run_dir)) == points_in_folder(run_dir)
    sizes = [file.stat().st_size for file in sorted((run_dir / "tensorboard").iterdir())]
    assert len(sizes) == 2
    assert sizes[0] == 0 < sizes[1]


def test_a_page_that_is_open_forgets_what_comes_again(recorder, tmp_path):
    run_dir = tmp_path / "run"
    first = recorder()
    record(first, range(1, 11))
    first.finish("KILLED")
    page = read_back(run_dir)
    again = recorder(resume=True)
    record(again, range(11, 16))
    again.finish("FINISHED")
    assert points(page.Reload()) == points_in_folder(run_dir)


def test_a_folder_that_cannot_be_written_costs_one_line_and_nothing_else(recorder, tmp_path, said):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "tensorboard").write_text("in the way")
    it = recorder()
    record(it, range(1, 31))
    it.finish("FINISHED")
    assert len(points_in_folder(run_dir)) == 63
    assert len(said) == 1
    assert said[0].startswith(f"TensorBoard in {run_dir}/tensorboard: ")
    assert said[0].endswith(f"send them later with `mambalab sync {run_dir} to=tensorboard`")
    assert Note.read(run_dir, "tensorboard_run.json").state == "behind"


def test_a_disk_that_fails_for_a_while_gets_everything_in_the_end(
    recorder, tmp_path, said, monkeypatch
):
    from tensorboard.summary.writer.record_writer import RecordWriter

    write, left = RecordWriter.write, [8]

    def unreliable(self, data):
        left[0] -= 1
        if -5 < left[0] < 0:
            self._writer.write(data[:5])
            raise OSError(28, "No space left on device")
        write(self, data)

    monkeypatch.setattr(RecordWriter, "write", unreliable)
    it = recorder()
    record(it, range(1, 31))
    while left[0] > -5:
        record(it, [])
    it.finish("FINISHED")
    assert points(read_back(tmp_path / "run")) == points_in_folder(tmp_path / "run")
    assert said[1:] == [f"TensorBoard in {tmp_path}/run/tensorboard has the whole run after all"]


@pytest.mark.parametrize(
    ("changed", "key"),
    [({"uri": "http://x"}, "tracking.uri"), ({"experiment_name": "x"}, "tracking.experiment_name")],
)
def test_a_setting_without_meaning_is_refused(changed, key, tmp_path):
    with pytest.raises(UserError, match=key):
        tracking.check(settings(**changed), output_dir=tmp_path)


@pytest.mark.parametrize("kind", ["wandb", "tensorboard"])
def test_absence_is_one_line_that_names_the_command(kind, tmp_path):
    """Also beside a folder of that name, which Python would take for a package."""
    code = (
        "import sys; from importlib.machinery import PathFinder\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p] + ['.']\n"
        "from mambalab.tracking.packages import require\n"
        f"require('{kind}')"
    )
    (tmp_path / kind).mkdir()
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    mend = packages.pip_install(f"'mambalab[{kind}]'").partition(" install ")[2]
    told = f"tracking={kind} needs the package {kind}, which is not installed: "
    line = found.stderr.splitlines()[-1]
    assert line.startswith(f"mambalab.errors.UserError: {told}")
    assert line.endswith(f"pip install {mend}, or use tracking=jsonl")
