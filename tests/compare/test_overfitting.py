import pytest

from mambalab.compare.comparison import compare
from mambalab.compare.overfitting import PREMISE
from tests.records.example_runs import make_group

GOOD, BAD = [1.40, 1.43, 1.41], [1.50, 1.52, 1.51]


def ignore(key: str) -> bool:
    return key == "seed"


@pytest.fixture
def groups(tmp_path):
    """A function that makes a group of runs from best values, in a folder of its own."""

    def build(best, **settings):
        return make_group(tmp_path / str(len(list(tmp_path.iterdir()))), best, **settings)

    return build


def verdicts(found):
    return {group.label: group.verdict for group in found.groups}


def test_a_verdict_where_validation_loss_turns_up(groups):
    found = compare([*groups(BAD, rise=0.02), *groups(GOOD, dropout="ssm")], ignore=ignore)
    assert verdicts(found)["dropout=ssm"] == "better"
    assert found.dropout == [
        PREMISE,
        "validation loss turns up without dropout: +0.0200 (0.0200 to 0.0200) [dropout=none]",
    ]


@pytest.mark.parametrize("rise", [0.0, 0.01])  # the latter is less than 1 % of the best
def test_no_verdict_where_it_does_not(groups, rise):
    found = compare([*groups(BAD, rise=rise), *groups(GOOD, dropout="ssm")], ignore=ignore)
    assert verdicts(found)["dropout=ssm"] == "no verdict"
    assert found.dropout[1].startswith(
        f"no verdict on dropout: validation loss does not turn up without it: +{rise:.4f} ("
    )


def test_no_verdict_where_the_rise_is_uncertain(groups):
    free = [*groups([1.5], rise=0.001), *groups([1.52], rise=0.3), *groups([1.51], rise=0.05)]
    for seed, record in enumerate(free, 1):
        record.config["seed"] = seed
    found = compare([*free, *groups(GOOD, dropout="ssm")], ignore=ignore)
    assert verdicts(found)["dropout=ssm"] == "no verdict"
    assert "does not turn up without it: +0.1170 (-0." in found.dropout[1]


def test_no_verdict_where_nothing_is_without_dropout(groups):
    found = compare(
        [*groups(BAD, dropout="ssm", rise=0.3), *groups(GOOD, dropout="standard")], ignore=ignore
    )
    assert verdicts(found)["dropout=standard"] == "no verdict"
    assert found.dropout == [
        PREMISE,
        "no verdict on dropout: no group without dropout beside dropout=standard",
    ]


def test_ssm_dropout_on_top_of_dropout_is_judged_where_that_over_fits(groups):
    found = compare(
        [*groups(BAD, dropout="standard", rise=0.3), *groups(GOOD, dropout="ssm")], ignore=ignore
    )
    assert verdicts(found)["dropout=ssm"] == "better"
    assert found.dropout[1].startswith("validation loss turns up without SSM dropout: +0.3000")
    found = compare([*groups(BAD, dropout="standard"), *groups(GOOD, dropout="ssm")], ignore=ignore)
    assert verdicts(found)["dropout=ssm"] == "no verdict"


def test_one_seed_cannot_show_it(groups):
    found = compare([*groups([1.5], rise=0.3), *groups([1.4], dropout="ssm")], ignore=ignore)
    assert "one seed without it cannot show" in found.dropout[1]


def test_what_does_not_differ_in_dropout_is_judged_as_ever(groups):
    found = compare([*groups(BAD), *groups(GOOD, model__name="x")], ignore=ignore)
    assert (verdicts(found)["model=x"], found.dropout) == ("better", [])


def test_each_model_is_asked_for_itself(groups):
    """Model a over-fits without dropout, model b does not."""
    found = compare(
        [
            *groups(BAD, model__name="a", rise=0.3),
            *groups(GOOD, model__name="a", dropout="standard"),
            *groups(BAD, model__name="b"),
            *groups(GOOD, model__name="b", dropout="standard"),
        ],
        ignore=ignore,
    )
    assert verdicts(found) == {
        "model=a dropout=none": "baseline",
        "model=a dropout=standard": "better",
        "model=b dropout=none": "no difference shown",
        "model=b dropout=standard": "no verdict",
    }
    assert [line.partition(" [")[2] for line in found.dropout[1:]] == [
        "model=a dropout=none]",
        "model=b dropout=none]",
    ]


def test_a_baseline_with_dropout_is_judged_by_the_group_without(groups):
    records = [*groups(BAD, rise=0.3), *groups(GOOD, dropout="ssm")]
    found = compare(records, ignore=ignore, baseline="dropout=ssm")
    assert verdicts(found) == {"dropout=ssm": "baseline", "dropout=none": "worse"}
    flat = [*groups(BAD), *groups(GOOD, dropout="ssm")]
    found = compare(flat, ignore=ignore, baseline="dropout=ssm")
    assert verdicts(found)["dropout=none"] == "no verdict"


def test_another_model_with_a_dropout_of_its_own_is_a_recipe_and_is_judged(groups):
    base = groups(BAD, model__name="transformer")
    found = compare([*base, *groups(GOOD, model__name="mamba", dropout="ssm")], ignore=ignore)
    label = "model=mamba"
    assert verdicts(found)[label] == "better"
    assert found.dropout == [
        f"dropout is not that of the baseline, so whole recipes are compared: {label}"
    ]
