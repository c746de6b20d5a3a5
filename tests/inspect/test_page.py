"""The page holds what it shows, exactly enough, and nothing that a stranger's text could do."""

import base64
import json
import re

import numpy as np
import pytest

from mambalab.errors import UserError
from mambalab.inspect import page
from mambalab.inspect.sequence import InspectedSequence
from tests.inspect.example_traces import attention, scan, text

EVIL = "<script>alert(1)</script>&\u2028</title>"


def data(html: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.S)[1])


def unpack(packed: dict) -> np.ndarray:
    raw = np.frombuffer(base64.b64decode(packed["b64"]), np.uint8).reshape(packed["shape"])
    values = packed["low"] + (packed["high"] - packed["low"]) * raw / 255
    return {"log": np.exp, "sqrt": np.square, "linear": np.array}[packed["scale"]](values)


def test_strangers_texts_stay_texts():
    sequence = text(EVIL)
    sequence.title = EVIL
    sequence.facts = [(EVIL, EVIL)]
    html = page.render(sequence, [scan(len(EVIL))])
    assert html.count("<script") == 2  # the data and the program
    assert "alert(1)</" not in html
    assert "\u2028" not in html.split('id="data">')[1].split("</script>")[0]
    found = data(html)
    assert "".join(found["labels"]) == EVIL
    assert found["facts"] == [[EVIL, EVIL]]


def test_placeholders_in_a_text_are_not_filled():
    sequence = text("{{PROGRAM}} {{DATA}}")
    sequence.title = "{{STYLE}}"
    html = page.render(sequence, [scan(20)])
    assert "<title>mambalab inspect: {{STYLE}}</title>" in html
    assert "".join(data(html)["labels"]) == "{{PROGRAM}} {{DATA}}"


def test_nothing_is_fetched():
    html = page.render(text("abcdef"), [scan(), attention()])
    assert "default-src 'none'" in html
    links = re.findall(r"""(?:src|href)=["']?(?!none)|url\(|fetch\(|@import""", html)
    assert links == []


def test_arrays_come_back():
    trace, looks = scan(50), attention(50)
    found = data(page.render(text("abcde" * 10), [trace, looks]))
    first, second = found["layers"]
    np.testing.assert_allclose(
        unpack(first["channel_delta"]).T, trace.delta[:, first["channels"]], rtol=0.02
    )
    np.testing.assert_allclose(unpack(first["A_log_shift"]), trace.A_log_shift, atol=0.002)
    np.testing.assert_allclose(unpack(second["weights"]), looks.weights, atol=0.005)
    np.testing.assert_allclose(first["delta"], trace.delta.mean(1), rtol=1e-3)
    assert found["loss"][0] is None
    spread = np.log(trace.delta).std(0)[first["channels"]]
    assert (np.diff(spread) <= 0).all()  # those that vary most come first


def test_large_models_stay_below_five_megabytes():
    layers = [scan(1000, 768, 16, layer=n) for n in range(1, 7)]
    html = page.render(text("abcdefghij" * 100), layers)
    assert len(html) < 5_000_000
    layer = data(html)["layers"][0]
    assert layer["channels_of"] == 768 > len(layer["channels"])
    maps = [attention(400, 8, layer=n) for n in range(1, 7)]
    html = page.render(text("abcdefghij" * 40), maps)
    assert len(html) < 5_000_000
    kept = data(html)["layers"][0]
    assert not kept["all_heads"]
    np.testing.assert_allclose(unpack(kept["weights"])[0], maps[0].weights.mean(0), atol=0.005)


def test_images_bring_the_step_of_each_pixel():
    image = np.arange(12, dtype=np.uint8).reshape(2, 6, 1)
    layout = np.arange(12).reshape(2, 6) // 2
    sequence = InspectedSequence(
        "image", [], [f"step {n}" for n in range(6)], image=image, layout=layout
    )
    found = data(page.render(sequence, [scan()]))
    assert found["image"]["steps"] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert base64.b64decode(found["image"]["b64"]) == bytes(range(12))
    assert found["layers"][0]["highest"] == []


def test_a_page_that_cannot_be_written(tmp_path):
    (tmp_path / "a file").touch()
    with pytest.raises(UserError, match="cannot write"):
        page.write(text("abcdef"), [scan()], tmp_path / "a file" / "index.html")
