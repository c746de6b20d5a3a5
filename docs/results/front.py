"""The README's short table: the studies that are recorded, older records of the other tasks."""

from docs.results import searches, shakespeare
from docs.results.old import percent, picture, run, table, value_of
from docs.results.one_study import by_test, comparison
from docs.results.studies import study
from mambalab.compare.results import BETTER, TOO_FEW, WORSE, Comparison, GroupResult

ROWS = {  # study: what its row is called
    "shakespeare/models": "Shakespeare, 90 seconds: validation loss per character",
    "shakespeare/models_15min": "Shakespeare, 15 minutes",
    "mnist/models": "MNIST, 28 pixels a step: test accuracy",
    "cifar10/models": "CIFAR-10, 10 minutes: test accuracy",
    "cifar10/models_30": "CIFAR-10, 30 minutes: test accuracy",
    "selective_copying/models": "selective copying: accuracy",
}
OPENING = "shakespeare/models"
SSM_DROPOUT = "shakespeare/ssm_dropout"


def by_model(found: Comparison) -> dict[str, GroupResult]:
    """The best group of each model, by the model's name."""
    best: dict[str, GroupResult] = {}
    for result in found.groups:  # the best first
        best.setdefault(str(result.group.setting("model.name")), result)
    return best


def _row(folder: str, title: str) -> list[str]:
    found = comparison(study(folder))
    groups = by_model(found)
    cells = []
    for model in searches.MODELS:
        result = groups.get(model)
        value = result and (result.test or result.best)
        cells.append(value_of(value, found.metric.name) if result else "not measured")
    counts = sorted({len(result.seeds) for result in groups.values()})
    seeds = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    told = "one seed" if counts == [1] else f"{seeds} seeds"
    return [title, *cells, f"{told}: {_verdict(found)}"]


def _verdict(found: Comparison) -> str:
    """What the values that are shown say of Mamba beside the baseline, which is `transformer`."""
    mamba = by_model(found)["mamba"]
    tested = [word for group, _, word in by_test(found) if group is mamba]
    word = tested[0] if tested else mamba.verdict
    return {BETTER: "Mamba better", WORSE: "Mamba worse", TOO_FEW: "no verdict"}.get(word, word)


def _induction_heads() -> list[str]:
    """An older record: no study replaces it yet."""
    heads = run("induction_heads/results.json", "mamba_cpu")
    longest = max(int(k.rpartition("/")[2]) for k in heads.test if "accuracy_at" in k)
    title = f"induction heads, the worst length up to {longest:,} (older)"
    return [title, percent(heads.accuracy), *2 * ["not measured"], "one seed"]


def _ssm_dropout() -> str:
    """What is known on SSM dropout, in a sentence or two."""
    found = comparison(study(SSM_DROPOUT))
    judged = next(result for result in found.groups if result.difference is not None)
    assert judged.difference is not None
    change = shakespeare.signed(judged.difference)
    return (
        f"On top of ordinary dropout it changes the best validation loss by {change} "
        f"({len(judged.seeds)} seeds, a quarter of Shakespeare); {judged.verdict} "
        "([what to bear in mind](docs/results.md#does-ssm-dropout-help-on-top-of-dropout))."
    )


def readme(up: str) -> str:
    """The short table of the README."""
    del up
    rows = [_row(folder, title) for folder, title in ROWS.items() if study(folder).recorded]
    models = [f"`{model}`" for model in searches.MODELS]
    head = ["task", *models, "runs: Mamba beside `transformer`"]
    return (
        "CPU, bf16; means with 95 % intervals over seeds. Every model has settings of its own, "
        "from searches or trials of its own, and as many steps as two quiet cores take in that "
        "time ([how](docs/results.md#how-the-settings-were-chosen)). `transformer` has as "
        "many layers as Mamba, attention and feed-forward in turn, `transformer_equal_depth` both "
        "in each; parameters are equal within 3 %. *Older*: one run of an older setting.\n\n"
        f"{table(head, [*rows, _induction_heads()])}\n\n"
        f"**Does SSM dropout help?** {_ssm_dropout()}"
    )


def opening(up: str) -> str:
    """The picture that the pages open with."""
    of = study(OPENING)
    seeds = max(len(result.seeds) for result in comparison(of).groups)
    return picture(up, of.curves, f"Validation loss, mean and spread of {seeds} seeds: {of.title}")


BLOCKS = {"readme": readme, "opening": opening}
