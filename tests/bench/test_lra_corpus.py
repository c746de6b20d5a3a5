import os
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from mambalab.bench.lra_corpus import FAMILIES, NOISE, TOPICS, Writer, main, write


def rows(path) -> list[tuple[int, bytes, bytes]]:
    found = []
    for line in path.read_bytes().splitlines():
        label, _, _, first, second = line.split(b"\t")
        assert label in (b"0.0", b"1.0")
        found.append((int(label[:1]), first, second))
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write(folder, train=2000, eval=2, test=500, size=600, seed=1)
    return rows(folder / "new_aan_pairs.train.tsv"), rows(folder / "new_aan_pairs.test.tsv")


def histogram(text: bytes) -> np.ndarray:
    return np.bincount(np.frombuffer(text, np.uint8), minlength=128) / 10


def accuracy_of_regression(make, corpus) -> float:
    """Test accuracy of a logistic regression on `make(first, second)`."""
    (x, y), (u, v) = (
        (np.array([make(a, b) for _, a, b in part]), np.array([label for label, *_ in part]))
        for part in corpus
    )
    mean, spread = x.mean(0), x.std(0) + 1e-6
    x, u = (torch.tensor((z - mean) / spread, dtype=torch.float32) for z in (x, u))
    targets = torch.tensor(y, dtype=torch.float32)
    torch.manual_seed(0)
    model = nn.Linear(x.shape[1], 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], targets).backward()
        optimizer.step()
    return float(((model(u)[:, 0] > 0).numpy() == v).mean())


def votes(text: bytes) -> np.ndarray:
    """How many words speak for each topic."""
    words = Counter(text.decode().replace(".", " ").split())
    return np.array([sum(words[family[topic]] for family in FAMILIES) for topic in range(TOPICS)])


def test_families_are_anagrams_and_not_among_the_noise():
    words = [word for family in FAMILIES for word in family]
    assert len(set(words)) == len(words) == TOPICS * len(FAMILIES)
    assert all(len({"".join(sorted(word)) for word in family}) == 1 for family in FAMILIES)
    assert not set(words) & set(NOISE)
    assert len({"".join(sorted(family[0])) for family in FAMILIES}) == len(FAMILIES)


def test_an_oracle_that_reads_both_orders_knows(corpus):
    right = [(votes(a).argmax() == votes(b).argmax()) == label for label, a, b in corpus[1]]
    assert np.mean(right) > 0.99


def test_labels_are_balanced(corpus):
    assert [np.mean([label for label, *_ in part]) for part in corpus] == [0.5, 0.5]


def test_bags_of_bytes_of_both_documents_tell_nothing(corpus):
    def bags(a: bytes, b: bytes) -> np.ndarray:
        x, y = histogram(a), histogram(b)
        return np.concatenate((x, y, x * y, np.abs(x - y)))

    assert accuracy_of_regression(bags, corpus) <= 0.6


@pytest.mark.parametrize("which", [0, 1])
def test_one_document_tells_nothing_even_to_one_who_knows_its_topic(corpus, which):
    def one(*both: bytes) -> np.ndarray:
        text = both[which]
        topic = np.eye(TOPICS)[votes(text).argmax()]
        return np.concatenate((histogram(text), votes(text), topic))

    assert accuracy_of_regression(one, corpus) <= 0.6


def test_the_regression_does_learn_where_there_is_something_to_learn(corpus):
    def same(a: bytes, b: bytes) -> np.ndarray:
        return votes(a) * votes(b)

    assert accuracy_of_regression(same, corpus) > 0.8


@pytest.mark.parametrize("number", range(5))
def test_the_topic_changes_the_order_of_letters_and_nothing_else(number):
    texts = [Writer(1000, seed=2).document(number, topic) for topic in range(TOPICS)]
    assert len(set(texts)) == TOPICS
    assert len({bytes(sorted(text)) for text in texts}) == 1
    assert len({tuple(map(len, text.split(b" "))) for text in texts}) == 1


def test_the_evidence_is_all_over_a_document():
    found = [Writer(2000, seed=1).document(number, number % TOPICS) for number in range(40)]
    for part in range(4):
        pieces = [text[part * 350 : (part + 1) * 350] for text in found]
        right = [votes(piece).argmax() == n % TOPICS for n, piece in enumerate(pieces)]
        assert np.mean(right) > 0.8


def test_documents_are_ascii_sentences_within_their_size():
    for number in range(200):
        text = Writer(300, seed=4).document(number, 0).decode("ascii")
        assert 190 < len(text) <= 300
        assert text.endswith(".")
        sentences = text[:-1].split(". ")
        assert all(
            s[0].isupper() and (len(s) == 1 or s[1:].replace(" ", "").islower()) for s in sentences
        )
        assert not set("\t\n\0") & set(text)


def test_the_command_writes_the_same_files_every_time(tmp_path, capsys):
    def run(name: str, seed: int) -> list[bytes]:
        folder = tmp_path / name
        options = ["--train", "6", "--eval", "4", "--test", "3", "--bytes", "200", "--seed"]
        assert main([str(folder), *options, str(seed)]) == 0
        assert sorted(os.listdir(folder)) == [
            f"new_aan_pairs.{part}.tsv" for part in ("eval", "test", "train")
        ]
        return [path.read_bytes() for path in sorted(folder.iterdir())]

    first = run("a", 1)
    assert first == run("b", 1) != run("c", 2)
    assert [len(content.splitlines()) for content in first] == [4, 3, 6]
    documents = [
        d for content in first for line in content.splitlines() for d in line.split(b"\t")[3:]
    ]
    assert len(set(documents)) == 2 * 13  # no document is in two splits
    assert "task=retrieval task.path=" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--train", "1"], ["--bytes", "99"]])
def test_numbers_too_small_are_refused(tmp_path, capsys, wrong):
    assert main([str(tmp_path / "x"), *wrong]) == 1
    assert capsys.readouterr().err.startswith(f"error: {wrong[0]} {wrong[1]}: ")
    assert not (tmp_path / "x").exists()
