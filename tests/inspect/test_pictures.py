import numpy as np
import pytest
from matplotlib import image as pictures_of

from mambalab.inspect import pictures
from mambalab.inspect.sequence import InspectedSequence
from tests.inspect.example_traces import attention, scan, text


@pytest.mark.parametrize("steps", [1, 30, 500])
def test_texts(tmp_path, steps):
    sequence = text(("a$_^\n☃" * 100)[:steps])
    layers = [scan(steps, layer=1), scan(steps, layer=2), attention(steps, layer=3)]
    layers[1].backward = True
    paths = pictures.draw(sequence, layers, tmp_path)
    names = ["delta", "memory", "a_log", "state_norm", "attention"]
    assert [path.stem for path in paths] == names
    for path in paths:
        pixels = pictures_of.imread(path)
        assert min(pixels.shape[:2]) > 200
        assert pixels.std() > 0.02  # not blank


def test_values_that_hardly_differ_look_alike():
    low, high = pictures._log_colours(np.linspace(0.99, 1.0, 50))
    assert high / low == pytest.approx(1.5)
    assert low < 0.9 < 1.1 < high
    wide = np.geomspace(0.01, 10, 1000)
    assert pictures._log_colours(wide) == pytest.approx(np.quantile(wide, [0.01, 0.99]))


def test_images(tmp_path):
    layout = np.arange(24).reshape(4, 6) // 4
    for channels in (1, 3):
        image = np.zeros((4, 6, channels), np.uint8)
        sequence = InspectedSequence("an image", [], ["x"] * 6, image=image, layout=layout)
        assert "delta_image.png" in [p.name for p in pictures.draw(sequence, [scan()], tmp_path)]
