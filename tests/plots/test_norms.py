"""The picture of the norms."""

import json

import pytest
from matplotlib.figure import Figure

from mambalab.plots import norms


@pytest.mark.parametrize("layers", [3, 12])
def test_three_panels_with_a_line_for_each_layer(tmp_path, monkeypatch, layers):
    (tmp_path / "config.yaml").write_text("task: {name: text}\nseed: 3\n")
    names = [f"backbone.layers.{n}" for n in range(layers)]
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in (10, 20, 30):
            line = {f"norms/{kind}/{name}": step / (n + 1) for kind in norms.PANELS
                    for n, name in enumerate(names)}  # fmt: skip
            line[f"norms/grad/{names[0]}"] = None if step == 20 else 0.0
            file.write(json.dumps({"step": step, **line}) + "\n")
    figures = []
    save = norms.save
    monkeypatch.setattr(
        norms, "save", lambda figure, path: figures.append(figure) or save(figure, path)
    )
    path = norms.norms_picture(tmp_path)
    assert path == tmp_path / "plots/norms.png"
    (figure,) = figures
    assert isinstance(figure, Figure)
    for axes, text in zip(figure.axes, norms.PANELS.values(), strict=True):
        assert axes.get_ylabel() == text
        assert axes.get_yscale() == "log"
        assert [line.get_label() for line in axes.lines] == names  # 10 after 9
    assert list(figure.axes[1].lines[1].get_ydata()) == [5, 10, 15]


def test_nothing_to_draw(tmp_path):
    (tmp_path / "config.yaml").write_text("task: {name: text}\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n')
    with pytest.raises(norms.NoNormsError, match="holds no norms"):
        norms.norms_picture(tmp_path)
