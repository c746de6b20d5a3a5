import json

import pytest
import torch

pytest.importorskip("triton", reason="triton has no wheel for this machine")

from mambalab.bench import tune
from mambalab.cli import main
from mambalab.ops.triton import plans, shapes
from mambalab.ops.triton.plans import Plan

RULE = Plan(32, 2, None)


def test_shapes_meet_their_places_in_the_table():
    for shape in tune.shapes(528):
        warps = max(1, shape.states // 16)
        assert plans.place(shape.channels * warps / 32 / 528) == shape.place
        assert plans.states_of(shape.states) == shape.states


def test_the_rule_stays_unless_another_plan_is_clearly_faster():
    assert tune.fastest({RULE: 1.0, Plan(16, 3, 168): 0.98}, RULE) == RULE
    assert tune.fastest({RULE: 1.0, Plan(16, 3, 168): 0.9}, RULE) == (16, 3, 168)


def test_what_was_fastest_is_what_runs_then(tmp_path, monkeypatch):
    """On a GPU that is not there: calls are not made, and narrow programs win below one warp."""
    table = tmp_path / "tuned.json"
    table.write_text('{"another GPU": {"plans": {}}}')
    device = torch.device("cuda", 0)
    monkeypatch.setattr(plans, "TABLE", table)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    for module in (shapes, plans):
        monkeypatch.setattr(module, "schedulers", lambda _: 528)
    monkeypatch.setattr(tune, "_call", lambda shape, plan, _: (shape, plan))

    def in_turns(calls, *_):
        fast = Plan(16, 1, None)
        return {k: [0.5 if plan == fast and s.place < 0 else 1.0] for k, (s, plan) in calls.items()}

    monkeypatch.setattr(tune, "in_turns", in_turns)
    plans.table.cache_clear()
    plans._on_gpu.cache_clear()
    assert tune.run(device, 0.1) == str(table)
    plans.table.cache_clear()
    written = json.loads(table.read_text())
    assert {*written} == {"another GPU", "a GPU"}
    assert "triton" in written["a GPU"]["versions"]
    assert plans.choose(528 * 32 // 4, 16, device) == (16, 1, None)
    assert plans.choose(528 * 32 * 2, 16, device) == (32, 2, None)
    plans.table.cache_clear()
    plans._on_gpu.cache_clear()


def test_tuning_is_refused_in_one_line_where_it_makes_no_sense(capsys):
    assert main.main(["bench", "scan", "tune=true", "device=cpu"]) == 1
    assert "tune=true: times kernels of NVIDIA GPUs" in capsys.readouterr().err
    assert main.main(["bench", "train", "tune=true"]) == 2
    assert "tune=true: tunes the scan" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")
def test_a_call_runs_every_plan():
    for plan in tune.plans():
        assert tune._call(tune.Shape(16, -4, 64), plan, torch.device("cuda"))() is not None
