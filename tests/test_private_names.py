"""Private names of libraries that `mambalab/` uses: all of them, still there, meaning the same.

A release may drop one without notice. `USES` is the only list: a use that it lacks fails, and so
does a name on it that nobody uses. A test a name says first what broke when a library moves on.
"""

import ast
from collections import defaultdict
from pathlib import Path

import optuna
import pytest
import torch

PACKAGE = Path(__file__).parents[1] / "mambalab"
USES = {
    "hydra: _internal": {"config/user_conf.py"},
    "hydra: _normalize_file_name": {"config/user_conf.py"},
    "mlflow: _all_tables_exist": {"tracking/database.py"},
    "mlflow: _get_alembic_config": {"tracking/store_state.py"},
    "optuna: _contains": {"sweep/optuna_study.py"},
    "optuna: _study_id": {"compare/search.py", "sweep/optuna_study.py"},
    "submitit: _delay_s": {"sweep/submitit_launcher.py"},
    "submitit: _executor": {"sweep/submitit_launcher.py"},
    "submitit: _make_command": {"sweep/submitit_launcher.py"},
    "tarfile: _proc_member": {"data/lra_archive.py"},
    "torch: _C": {"models/state.py", "ops/dispatch.py"},
    "torch: _backward_hooks": {"models/layers.py"},
    "torch: _backward_pre_hooks": {"models/layers.py"},
    "torch: _cdata": {"runs/model_summary.py"},
    "torch: _current_graph_task_id": {"models/state.py"},
    "torch: _current_level": {"ops/dispatch.py"},
    "torch: _foreach_lerp_": {"train/averaging.py"},
    "torch: _forward_hooks": {"models/layers.py"},
    "torch: _forward_pre_hooks": {"models/layers.py"},
    "torch: _functorch": {"ops/dispatch.py"},
    "torch: _get_tracing_state": {"ops/dispatch.py"},
    "torch: _global_backward_hooks": {"models/layers.py"},
    "torch: _global_backward_pre_hooks": {"models/layers.py"},
    "torch: _global_forward_hooks": {"models/layers.py"},
    "torch: _global_forward_pre_hooks": {"models/layers.py"},
    "torch: _len_torch_dispatch_stack": {"ops/dispatch.py"},
    "torch: _pytree": {"tasks/base.py", "train/together.py"},
    "torch: _scaled_dot_product_flash_attention_for_cpu": {"ops/flops.py"},
    "torch: _scaled_dot_product_flash_attention_for_cpu_backward": {"ops/flops.py"},
    "torch: _subclasses": {"runs/model_summary.py"},
}
DOCUMENTED = {"_replace", "_fields", "_asdict", "_exit"}  # of named tuples, and of os
ASKING = {"getattr", "hasattr", "setattr", "delattr"}
OWN = {"_functorch"}  # a name of ours for a private one that the same file takes


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def is_kept(node: ast.AST) -> bool:
    """Whether an object of ours gets an attribute: one of another object may be a library's."""
    if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Store):
        return False
    return getattr(node.value, "id", "") in ("self", "cls")


def names_of_ours(trees) -> set[str]:
    """Every private name that is given somewhere in mambalab."""
    found = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif is_kept(node):
                found.add(node.attr)
    return found - OWN


def is_inherited(node: ast.Attribute) -> bool:
    """Whether it is asked of `super()`: a name of ours, but the library's, too."""
    return isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super"


def private_names(tree: ast.AST, ours: set[str]) -> set[str]:
    """Private names of other packages in a file: imported, or asked of something."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("mambalab"):
            found |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Attribute) and (node.attr not in ours or is_inherited(node)):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ASKING:
            found |= {a.value for a in node.args if isinstance(getattr(a, "value", 0), str)}
    return {name for name in found if is_private(name)}


def test_every_use_is_on_the_list():
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    ours = names_of_ours(trees.values())
    found = defaultdict(set)
    for path, tree in trees.items():
        for name in private_names(tree, ours):
            found[name].add(path.relative_to(PACKAGE).as_posix())
    assert found == {use.partition(": ")[2]: files for use, files in USES.items()}


def test_a_use_is_seen():
    code = (
        "from lib import _a\nimport lib._b.c\nfrom lib._d import e\nx._f\nself._g\ny._replace()\n"
    )
    code += "getattr(x, '_h', None)\nsuper()._i()"
    assert private_names(ast.parse(code), {"_g", "_i"}) == {"_a", "_b", "_d", "_f", "_h", "_i"}


def hydra_internal():
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    return FileConfigSource._normalize_file_name("a") == "a.yaml"


def mlflow_store():
    from mlflow.store.db.utils import _all_tables_exist, _get_alembic_config

    path = _get_alembic_config("sqlite://").get_main_option("script_location")
    return callable(_all_tables_exist) and Path(path).is_dir()


def contains():
    kind = optuna.distributions.FloatDistribution(0.0, 1.0)
    return kind._contains(0.5) and not kind._contains(1.5)


def study_id():
    return isinstance(optuna.create_study()._study_id, int)


def hooks():
    module, everywhere = torch.nn.Identity(), torch.nn.modules.module
    module.register_forward_hook(lambda *_: None)
    names = [f"_{kind}{pre}_hooks" for kind in ("forward", "backward") for pre in ("", "_pre")]
    of_module = [len(getattr(module, name)) for name in names]
    of_all = [len(getattr(everywhere, f"_global{name}")) for name in names]
    return of_module == [1, 0, 0, 0] and of_all == [0, 0, 0, 0]


def graph_task():
    inside = []
    x = torch.ones(1, requires_grad=True)
    y = x * 2
    y.register_hook(lambda _: inside.append(torch._C._current_graph_task_id()))
    y.sum().backward()
    return torch._C._current_graph_task_id() == -1 and inside[0] >= 0


def forward_level():
    from torch.autograd import forward_ad

    outside = forward_ad._current_level
    with forward_ad.dual_level():
        return outside == -1 and forward_ad._current_level == 0


def dispatch():
    from torch._subclasses.fake_tensor import FakeTensorMode

    outside = torch._C._len_torch_dispatch_stack()
    with FakeTensorMode():
        inside = torch._C._len_torch_dispatch_stack()
    return (outside, inside) == (0, 1) and torch._C._get_tracing_state() is None


def functorch():
    found = []
    stack = torch._C._functorch
    torch.vmap(lambda x: (found.append(stack.get_interpreter_stack()[0].key().name), x)[1])(
        torch.ones(2)
    )
    return found == ["Vmap"] and stack.peek_interpreter_stack() is None


def fake_tensors():
    from torch._subclasses import fake_tensor

    errors = ("DataDependentOutputException", "DynamicOutputShapeException")
    return all(issubclass(getattr(fake_tensor, name), Exception) for name in errors)


def storage():
    x = torch.ones(4)
    one, other = x.untyped_storage()._cdata, torch.ones(4).untyped_storage()._cdata
    return x[1:].untyped_storage()._cdata == one != other


def lerp():
    averages = [torch.zeros(2)]
    torch._foreach_lerp_(averages, [torch.ones(2)], 0.25)
    return averages[0].tolist() == [0.25, 0.25]


def pytree():
    from torch.utils import _pytree

    return _pytree.tree_map(lambda x: x + 1, {"a": [1, (2,)]}) == {"a": [2, (3,)]}


def attention():
    q, k, v = (torch.ones(1, 1, 2, 4) for _ in range(3))
    name = "_scaled_dot_product_flash_attention_for_cpu"
    found = getattr(torch.ops.aten, name)(q, k, v)
    return found[0].shape == q.shape and hasattr(torch.ops.aten, f"{name}_backward")


def watcher():
    from submitit.slurm.slurm import SlurmInfoWatcher

    watcher = SlurmInfoWatcher(delay_s=7)
    return watcher._make_command() is None and watcher._delay_s == 7  # without a job


def executor():
    import submitit

    auto = submitit.AutoExecutor("unused", cluster="local")
    return issubclass(auto._executor.job_class, submitit.Job)


def header():
    import tarfile

    return callable(tarfile.TarInfo._proc_member)


CHECKS = (
    *(watcher, executor, header),
    *(hydra_internal, mlflow_store, contains, study_id, hooks, graph_task, forward_level),
    *(dispatch, functorch, fake_tensors, storage, lerp, pytree, attention),
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_private_name_still_means_what_it_did(check):
    assert check()
