import numpy as np
import pytest

from mambalab.inspect import measures
from mambalab.inspect.sequence import InspectedSequence
from mambalab.inspect.trace import AttentionTrace
from tests.inspect.example_traces import scan


def test_memory_is_the_time_to_one_e_th():
    trace = scan(steps=40)
    lengths = measures.memory(trace)
    left = np.exp(trace.delta[:, :, None] * trace.A).prod(0)  # of each state, after all steps
    np.testing.assert_allclose(np.exp(-40 / lengths), left, rtol=1e-3, atol=1e-38)
    np.testing.assert_allclose(measures.longest_memory(trace), lengths[:, 0])  # n = 1 is slowest


def test_each_step_alone():
    trace = scan()
    expected = np.exp(trace.delta[:, :, None] * trace.A).mean((1, 2))
    np.testing.assert_allclose(measures.retention(trace), expected, rtol=1e-5)
    np.testing.assert_allclose(measures.memory_by_step(trace), np.median(1 / trace.delta, axis=1))
    np.testing.assert_allclose(measures.norm_by_step(trace), np.linalg.norm(trace.norm, axis=1))


def test_extreme_characters():
    high, low = measures.extremes(np.array([1.0, 5.0, 3.0, 9.0]), list("abac"))
    assert [(f.label, f.mean, f.count) for f in high] == [("c", 9, 1), ("b", 5, 1)]
    assert [(f.label, f.mean, f.count) for f in low] == [("a", 2, 2), ("b", 5, 1)]
    values = np.arange(300.0)
    high, _ = measures.extremes(values, ["x", "y"] * 149 + ["x", "once"])
    assert [f.label for f in high] == ["y"]


def test_a_row_of_the_table():
    trace = scan()
    trace.delta[:] = np.array([1, 1 / 100, 1 / 300, 1 / 300], dtype=np.float32)
    row = measures.summarise(trace, InspectedSequence("t", [], list("aabbcc")))
    assert row.shares == [0.75, 0.5]
    assert row.median == pytest.approx(200, rel=1e-5)


def test_attention_received_is_measured_against_the_place():
    rows, columns = np.indices((40, 40))
    near = np.tril(np.exp((columns - rows) / 3.0))  # the nearer, the more, whatever stands there
    drawn = np.where(columns % 4 == 1, 5.0, 1.0)
    labels = ["xyxx"[step % 4] for step in range(40)]

    def seen(weights):
        weights = weights / weights.sum(-1, keepdims=True)
        trace = AttentionTrace(1, weights[None].astype(np.float32))
        return measures.attention_received(trace, InspectedSequence("t", [], labels))

    plain, found = seen(near), seen(near * drawn)
    np.testing.assert_allclose(plain.total / plain.expected_by_distance, 1, atol=0.01)
    assert found.expected_by_distance.sum() == pytest.approx(40, rel=1e-5)
    assert found.highest[0].label == "y"
    assert found.lowest[0].label == "x"
    assert found.highest[0].mean > 3 * found.lowest[0].mean


def test_texts_of_a_pair_are_measured_apart():
    weights = np.zeros((1, 9, 9), np.float32)
    weights[0, :3, :3], weights[0, 3:, 3:] = 1 / 3, 1 / 6
    sequence = InspectedSequence("t", [], list("abcdefghi"), second=3)
    found = measures.attention_received(AttentionTrace(1, weights), sequence)
    np.testing.assert_allclose(found.total / found.expected_by_distance, 1, rtol=1e-5)


def test_distance_of_a_head_that_looks_one_back():
    weights = np.zeros((1, 5, 5), np.float32)
    weights[0, np.arange(5), np.maximum(np.arange(5) - 1, 0)] = 1
    assert measures.distance(AttentionTrace(1, weights)) == pytest.approx([0.8])
