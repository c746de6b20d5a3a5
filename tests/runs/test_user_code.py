"""Classes of one's own that are not what they should be: one line each."""

import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mambalab.cli import main
from mambalab.errors import UserError
from mambalab.records.run_folder import RunFolder
from mambalab.runs import callbacks, user_code
from mambalab.tasks.base import Task
from tests.lab import TINY, one_line, only_run, summary

TASK = "defaults: [text, _self_]\n_target_: {name}.Own\n"
MODEL = "defaults: [_base, _self_]\nname: own\npattern: M\n_target_: {name}.Own\n"


@pytest.fixture
def own(folder, monkeypatch):
    """A function that writes a module with a class Own and the options task=own and model=own."""
    monkeypatch.setattr("sys.path", list(sys.path))

    def write(name: str, text: str) -> None:
        (folder / f"{name}.py").write_text(text)
        for group, option in (("task", TASK), ("model", MODEL)):
            (folder / "conf" / group).mkdir(parents=True, exist_ok=True)
            (folder / "conf" / group / "own.yaml").write_text(option.format(name=name))

    return write


def train(*options: str) -> int:
    words = [word for word in TINY if word != "task=text"]
    return main.main(["train", *words, *options, "tracking=jsonl", "dropout=none"])


IMPORT = "from mambalab.tasks.base import Task\nfrom torch import nn\n"
TASKS = {
    "class Own: pass": "no Task; derive it from mambalab.tasks.base.Task",
    "class Own(Task): pass": "lacks the method batch, loss, measure, prepare of mambalab.tasks",
    "class Own(Task):\n def __init__(self, settings): pass\n"
    " batch = loss = measure = prepare = None": "its __init__ must take (settings, *, seed, "
    "data_dir, data_fraction): got an unexpected keyword argument",
}
MODELS = {
    "class Own: pass": "no Module; derive it from torch.nn.Module",
    "class Own(nn.Module):\n def __init__(self): pass": "its __init__ must take (settings, "
    "dropout, spec): too many positional arguments",
    "class Own(nn.Module):\n def __init__(self, a, b, c, d): pass": "missing a required argument",
    "class Own(nn.Module): pass": "dropout, spec): it has none of its own",
}


@pytest.mark.parametrize(("group", "cases"), [("task", TASKS), ("model", MODELS)])
def test_a_class_that_does_not_fit_is_one_line(own, folder, capsys, group, cases):
    for number, (text, message) in enumerate(cases.items()):
        own(f"own_{group}_{number}", f"{IMPORT}{text}\n")
        other = [] if group == "task" else ["task=text"]
        assert train(f"{group}=own", *other) == 1
        line = one_line(capsys)
        assert f"{group}._target_=own_{group}_{number}.Own: " in line
        assert message in line
    assert not (folder / "outputs").exists()


def test_a_module_that_cannot_be_imported_is_one_line(own, capsys):
    own("own_broken", "\nclass Own(:\n")
    assert train("task=text", "model=own") == 1
    assert "own_broken.py, line 2: invalid syntax" in one_line(capsys)


PARITY = """
import torch
from mambalab.spec import ModelSpec
from mambalab.tasks.classification import ClassificationTask

class Own(ClassificationTask):
    splits = ("train", "val")

    def prepare(self, device="cpu"):
        self.bits = torch.arange(64)[:, None] >> torch.arange(6) & 1
        self.classes = ["even", "odd"]
        self.labels = {split: self.bits.sum(1) % 2 for split in self.splits}
        self.spec = ModelSpec(vocab_size=2, seq_len=6, classes=2)

    def inputs(self, split, rows, position):
        return self.bits[torch.from_numpy(rows)], None
"""
BATCH = "rows)] if position is None else self.bits[torch.from_numpy(rows[1:])], None"
SLIPS = [  # what is right, what is written instead, what is said
    ("        self.spec = ", "        spec = ", "its prepare must set self.spec"),
    ("        self.classes = ", "        classes = ", "its prepare must set self.classes"),
    ("classes=2)", "classes=3)", "self.spec has classes=3, but self.classes names 2"),
    ("in self.splits}", 'in ["train"]}', "self.labels lacks the split 'val'"),
    ("% 2 for", "% 2 * 1.0 for", "must be a tensor (n,) of int64, not (64,) of float32"),
    ("% 2 for", "% 3 for", "goes from 0 to 2; with 2 classes a label is a number from 0 to 1"),
    ("% 2 for", "[:0] for", "self.labels['train'] is empty"),
    ("rows)], None", "rows)]", "must return (sequences, lengths or None), not (2, 6) of int64"),
    ("rows)], None", "rows)].float(), None", "a tensor (2, L) of int64, not (2, 6) of float32"),
    ("rows)], None", "rows)], 6", "must return lengths (2,) of int64 or None, not int"),
    ("rows)], None", "rows)] + 1, None", "holds tokens outside 0 to 1 (spec.vocab_size)"),
    ("rows)], None", BATCH, "self.inputs('train', [0, 63], 0) must return a tensor (2, L) of"),
    ("seq_len=6", "seq_len=5", "returns 6 steps, but self.spec has seq_len=5"),
    ("seq_len=6", "seq_len=7", "returns 6 steps, but self.spec has seq_len=7"),
    ("& 1\n", "& 1 / 0\n", "line 10, in prepare: ZeroDivisionError: division by zero"),
    ("vocab_size=2", "vocab_size=0", "line 13, in prepare: AssertionError: tokens or vectors"),
]


def test_a_slip_in_a_task_that_names_a_class_is_one_line(own, folder, capsys):
    for number, (right, wrong, message) in enumerate(SLIPS):
        assert right in PARITY
        own(f"own_slip_{number}", PARITY.replace(right, wrong))
        option = folder / "conf/task/own.yaml"
        target = f"own_slip_{number}.Own"
        option.write_text(f"defaults: [_classification]\nname: own\n_target_: {target}\n")
        words = [word for word in TINY if not word.startswith("task")]
        assert main.main(["train", "task=own", *words, "tracking=jsonl"]) == 1, message
        line = one_line(capsys)
        assert f"task._target_={target}: " in line
        assert message in line
    assert not (folder / "outputs").exists()


ANSWERS = {  # the class's forward, and what is said
    "def forward(self, x): return self.a(x)": "task digits names a class, so the model is called "
    "as forward(x, lengths): too many positional arguments",
    "def forward(self, x, lengths): return self.a(x)": "for one example of task digits forward "
    "must return (1, 10) logits, not (1, 8, 10) of float32",
    "def forward(self, x, lengths): return self.b(x)": "line 8, in forward: AttributeError: ",
}


def test_a_model_that_cannot_classify_is_told_before_it_trains(own, folder, capsys):
    for number, (forward, message) in enumerate(ANSWERS.items()):
        own(
            f"own_answer_{number}",
            f"{IMPORT}class Own(nn.Module):\n def __init__(self, settings, dropout, spec):\n"
            f"  super().__init__()\n  self.a = nn.Linear(8, 10)\n\n {forward}\n",
        )
        assert main.main(["train", "task=digits", "model=own", "tracking=jsonl", "device=cpu"]) == 1
        line = one_line(capsys)
        assert f"model._target_=own_answer_{number}.Own: " in line
        assert message in line
    assert not (folder / "outputs").exists()


CONTINUED = {  # what a language model's forward returns, and what is said of it
    "": "task text predicts a text, so the model is called as forward(x): too many positional",
    "x, return (self.a(x),)": "must return (1, 32, 41) logits, not tuple",
    "x, return self.a(x)[:, -1]": "must return (1, 32, 41) logits, not (1, 41) of float32",
    "x, return self.a(x).repeat(1, 1, 2)": "not (1, 32, 82) of float32; a wider vocabulary is "
    "named with model.vocab_size=82",
    "x, return self.a(x)[..., :3]": "must return (1, 32, 41) logits, not (1, 32, 3) of float32",
}


def test_a_model_that_cannot_continue_a_text_is_told_before_it_trains(own, folder, capsys):
    for number, (forward, message) in enumerate(CONTINUED.items()):
        arguments, _, body = forward.partition(", ")
        own(
            f"own_continued_{number}",
            f"{IMPORT}class Own(nn.Module):\n def __init__(self, settings, dropout, spec):\n"
            f"  super().__init__()\n  self.a = nn.Embedding(spec.vocab_size, spec.vocab_size)\n"
            f" def forward(self, {arguments}): {body or 'pass'}\n",
        )
        assert train("task=text", "model=own") == 1
        line = one_line(capsys)
        assert f"model._target_=own_continued_{number}.Own: " in line
        assert message in line
    assert not (folder / "outputs").exists()


class Judged(Task):
    """A task whose measure gives what it is told to; counts the batches that it measures."""

    def __init__(self, found, *, batches: int = 1, metric: str = "val/score"):
        self.found, self.batches, self.metric, self.seen = found, batches, metric, 0

    def prepare(self, device="cpu"):
        raise NotImplementedError

    batch = loss = prepare

    def measure(self, model, split):
        for _ in self.eval_batches(range(self.batches)):
            torch.rand(1)
            self.seen += 1
        return self.found


MEASURES = {
    "other names": ({"val/loss": 1.0}, "must return val/score, by which .* it returned val/loss"),
    "no number": ({"val/score": None}, "returns None for val/score"),
    "a tensor": ({"val/score": torch.ones(1)}, "returns val/score as Tensor, not as a number"),
    "no names": (1.5, "must return metrics by name"),
}


@pytest.mark.parametrize("kind", MEASURES)
def test_a_measure_that_breaks_its_promise_is_told_at_the_start(kind):
    found, message = MEASURES[kind]
    with pytest.raises(UserError, match=rf"^task\._target_=\S+Judged: the task's .*{message}"):
        user_code.check_measure(nn.Linear(1, 1), Judged(found), torch.device("cpu"))


def test_a_measure_is_tried_with_one_batch_and_draws_nothing(caplog):
    model, before = nn.Linear(1, 1), torch.get_rng_state()
    task = Judged({"val/score": math.nan}, batches=9)
    user_code.check_measure(model, task, torch.device("cpu"))
    assert (task.seen, task.on_eval_batch) == (1, None)
    assert not caplog.text
    task.batches = 1
    user_code.check_measure(model, task, torch.device("cpu"))
    assert "before training, measure gives nan for val/score" in caplog.text
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_without_a_loss_to_draw_ends_well(tmp_path, caplog):
    caplog.set_level("INFO", logger="mambalab")
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "val/score": 0.5}\n')
    recorder: Any = SimpleNamespace(artifact=pytest.fail)
    callbacks.LossPicture(RunFolder(tmp_path), recorder, unit="nats")._draw()
    assert f"no picture: {tmp_path} holds no loss to draw yet" in caplog.text


def test_what_a_class_raises_in_training_is_one_line_and_the_log_has_the_rest(
    own,
    folder,
    capsys,
):
    answer = "self.both(tokens) + (self.absent if self.training else 0)"
    more = f"def forward(self, tokens): return {answer}\n    def other"
    own("own_raises", IMPORT + STATELESS.format(more="").replace("def forward", more))
    assert train("task=text", "model=own") == 1
    shown = capsys.readouterr().err.splitlines()
    assert [line for line in shown if "Traceback" in line or "File" in line] == []
    run_dir = only_run(folder)
    log = run_dir.relative_to(folder) / "train.log"
    reason = f"model._target_=own_raises.Own: {folder}/own_raises.py, line 9, in forward: Attr"
    assert reason in shown[-1]
    assert shown[-1].endswith(f"its traceback is in {log}")
    assert "Traceback" in log.read_text()
    facts = summary(run_dir)
    assert (facts["status"], reason in facts["reason"]) == ("FAILED", True)


STATELESS = """
class Own(nn.Module):
    def __init__(self, settings, dropout, spec):
        super().__init__()
        self.both = nn.Sequential(nn.Embedding(spec.vocab_size, 8), nn.Linear(8, spec.vocab_size))
    {more}
    def forward(self, tokens):
        return self.both(tokens)
"""
HALF = "def initial_state(self, batch_size, max_len): return None"


@pytest.mark.parametrize(
    ("name", "more", "lacking"),
    [
        ("none", "", "initial_state and context_limit and an argument `state` of forward"),
        ("half", HALF, "context_limit and an argument `state` of forward"),
    ],
)
def test_a_model_without_state_trains_but_cannot_generate(
    own,
    folder,
    capsys,
    name,
    more,
    lacking,
):
    own(f"own_stateless_{name}", IMPORT + STATELESS.format(more=more))
    assert train("task=text", "model=own") == 0
    shown = capsys.readouterr().err
    assert "scan" not in shown  # it has no Mamba layer of ours
    assert "backend" not in summary(only_run(folder))
    assert main.main(["generate", f"trust=own_stateless_{name}"]) == 1
    assert f"its model Own lacks {lacking}" in one_line(capsys)


def test_task_and_model_of_ones_own_may_lie_in_two_modules(own, folder, capsys):
    own("own_two_tasks", "from mambalab.tasks.text import TextTask\nclass Own(TextTask): pass\n")
    kept = (folder / "conf/task/own.yaml").read_text()
    own("own_two_models", IMPORT + STATELESS.format(more=""))
    (folder / "conf/task/own.yaml").write_text(kept)
    assert train("task=own", "model=own") == 0
    assert train("task=own", "model=own", "trainer.max_steps=14") == 0
    assert "going on from step 12" in capsys.readouterr().err
    assert main.main(["eval"]) == 1
    assert "add trust=[own_two_tasks,own_two_models]" in one_line(capsys)
    assert main.main(["eval", "trust=[own_two_tasks,own_two_models]"]) == 0


OLD_TOKENIZER = """
from mambalab.tasks.text import TextTask

class Letters:
    eos_id = None

    def __init__(self, inner):
        self.inner, self.vocab_size = inner, inner.vocab_size

    def encode(self, text):
        return self.inner.encode(text)

    def decode(self, ids):
        return self.inner.decode(ids)

    def opening(self):
        return self.inner.encode("L")[0]

    def assets(self):
        return self.inner.assets()

class Own(TextTask):
    def prepare(self, device="cpu"):
        super().prepare(device)
        self.tokenizer = Letters(self.tokenizer)
"""


@pytest.mark.filterwarnings("ignore:.* the old name goes:DeprecationWarning")
def test_a_tokenizer_with_the_old_name_writes_samples(own, folder):
    own("own_old_tokenizer", OLD_TOKENIZER)
    with pytest.warns(DeprecationWarning, match=r"Letters\.opening is called start_token now"):
        assert train("task=own", "model=mamba") == 0
    assert len(list((only_run(folder) / "samples").iterdir())) == 2


OLD_TASK = PARITY.replace('("train", "val")', '("train", "val", "test")').replace(
    "class Own(Class",
    """class Extra:
    def measure_in_detail(self, model, split):
        metrics, tables = super().measure_in_detail(model, split)
        return metrics | {f"{split}/extra": 1.5}, tables

    def each(self, batches):
        for batch in super().each(batches):
            self.count = getattr(self, "count", 0) + 1
            yield batch

class Own(Extra, Class""",
)
LATE = """
    def loss(self, model, batch):
        return super().loss(model, batch)

def examine(self, model, split):
    metrics, tables = ClassificationTask.examine(self, model, split)
    return metrics | {f"{split}/count": float(self.count), f"{split}/late": 2.5}, tables

Own.examine = examine
"""


@pytest.mark.filterwarnings("ignore:.* the old name goes:DeprecationWarning")
def test_a_task_with_old_names_in_a_mixin_and_set_afterwards_is_tested_by_them(own, folder):
    own("own_old_task", OLD_TASK + LATE)
    option = "defaults: [_classification]\nname: own\n_target_: own_old_task.Own\n"
    (folder / "conf/task/own.yaml").write_text(option)
    words = [word for word in TINY if not word.startswith("task")]
    with pytest.warns(DeprecationWarning, match=r"Own\.examine is called evaluate_detailed now"):
        assert main.main(["train", "task=own", *words, "tracking=jsonl"]) == 0
    test = summary(only_run(folder))["test"]
    assert (test["test/extra"], test["test/late"]) == (1.5, 2.5)
    assert test["test/count"] >= 3  # two validations and the test
    with pytest.warns(DeprecationWarning, match=r"Own\.examine is called evaluate_detailed now"):
        assert main.main(["eval", "trust=own_old_task", "split=val"]) == 0
