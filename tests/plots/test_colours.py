import pytest

from mambalab.plots.colours import COLOURS, OF_DROPOUT, OF_MODEL, colour_of, line_looks


def colours(*rows):
    return [look.colour for look in line_looks(rows)]


def test_a_model_has_its_colour_whatever_stands_beside_it_and_whoever_is_best():
    mamba, transformer = {"model.name": "mamba"}, {"model.name": "transformer"}
    own = {"model.name": "own"}
    assert colours(mamba, transformer) == [OF_MODEL["mamba"], OF_MODEL["transformer"]]
    assert colours(transformer, own, mamba)[::2] == [OF_MODEL["transformer"], OF_MODEL["mamba"]]
    assert colours(own, mamba)[0] not in OF_MODEL.values()
    assert colour_of("mamba") == OF_MODEL["mamba"]


def test_dropout_has_its_colour_alone_and_its_style_beside_models():
    rows = [{"dropout.name": name} for name in OF_DROPOUT]
    assert colours(*rows) == list(OF_DROPOUT.values())
    both = [
        {"dropout.name": d, "model.name": m} for m in ("mamba", "hybrid") for d in ("ssm", "none")
    ]
    looks = line_looks(both)
    assert [look.colour for look in looks] == [OF_MODEL[row["model.name"]] for row in both]
    assert looks[0].style == looks[2].style != looks[1].style == looks[3].style
    alone = line_looks([{"dropout.name": "ssm"}, {"dropout.name": "none"}])
    assert looks[0].style == alone[0].style


def test_values_have_their_colours_by_size_not_by_rank():
    rows = [{"optim.lr": lr} for lr in ("0.01", "0.001", "1e-05")]
    assert colours(*rows) == list(reversed(COLOURS[:3]))


@pytest.mark.parametrize(
    "rows",
    [
        [{"model.name": f"own{i}"} for i in range(8)],
        [{"model.name": m, "optim.lr": str(i)} for m in ("mamba", "a", "b") for i in range(4)],
        [{"dropout.name": "ssm", "optim.lr": str(i)} for i in range(8)],
    ],
)
def test_no_two_look_alike(rows):
    assert len(set(line_looks(rows))) == len(rows)
