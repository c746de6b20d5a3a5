"""Several texts, texts of their own to validate and test on, and learnt tokens."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mambalab.data.text_sources import END
from mambalab.errors import UserError
from mambalab.tasks.text import TextTask
from mambalab.tokenization import byte_pairs
from tests.tasks.test_text import Bigram, nats

ASCII = "".join(f"line {n} of a text that trains, and so on\n" for n in range(60))
WIDE = ASCII.replace("a ", "ä ")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def make(settings, tmp_path, monkeypatch):
    """A function from files and settings to a prepared TextTask, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def build(written: dict[str, str], data_fraction: float = 1.0, **options) -> TextTask:
        for name, text in written.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        task = TextTask(settings(**options), seed=0, data_dir=tmp_path, data_fraction=data_fraction)
        task.prepare()
        return task

    return build


def held(task: TextTask, split: str) -> str:
    return task.tokenizer.decode(task._data[split].tolist())


def test_several_files_are_one_text_with_ends(make):
    task = make({"a.txt": ASCII, "b.txt": "second\n" * 9}, path=["a.txt", "b.txt"])
    assert held(task, "train") + held(task, "val") == ASCII + END + "second\n" * 9 + END
    assert task.tokenizer.eos_ids == (task.tokenizer.vocabulary.symbols.index(END),)
    assert task.fingerprint()["files"] == "2"
    assert json.loads(task.assets()["vocabulary.json"])["end"] == END
    alone = make({"a.txt": ASCII}, path="a.txt")
    assert END not in alone.tokenizer.vocabulary.symbols
    assert alone.fingerprint().keys() == {"sha256", "path"}
    assert "end" not in json.loads(alone.assets()["vocabulary.json"])


def test_the_fingerprint_is_of_contents_and_their_order(make):
    files = {"d/a.txt": ASCII, "d/b.txt": WIDE, "v.txt": ASCII[:500], "t.txt": ASCII[:400]}
    found = make(files, path="d").fingerprint()["sha256"]
    assert make(files, path=["d/a.txt", "d/b.txt"]).fingerprint()["sha256"] == found
    others = [
        make(files, path=["d/b.txt", "d/a.txt"]),
        make(files, path="d", val_path="v.txt"),
        make(files, path="d", val_path="v.txt", test_path="t.txt"),
        make(files, path="d", val_path="t.txt", test_path="v.txt"),
        make(files | {"d/c.txt": "new"}, path="d"),
    ]
    assert len({found, *(task.fingerprint()["sha256"] for task in others)}) == 6


def test_own_texts_validate_and_test(make, caplog):
    files = {"a.txt": ASCII, "v.txt": "validates ö\n" * 3, "t.txt": "tests\n" * 5}
    task = make(files, 0.5, path="a.txt", val_path="v.txt", test_path="t.txt")
    assert task.splits == ("train", "val", "test", "train_sample")
    assert held(task, "train") == ASCII[: len(ASCII) // 2]
    assert held(task, "val") == files["v.txt"]
    assert held(task, "test") == files["t.txt"]
    assert held(task, "train_sample") == ASCII[: len(files["v.txt"])]
    assert "30 test" in task.describe_data()
    found = task.evaluate(Bigram(task.spec.vocab_size), "test")
    assert found.keys() == {"test/loss", "test/bits_per_char", "test/bits_per_byte"}
    assert not caplog.text
    make(files, path="a.txt", val_path="a.txt")
    assert "task.val_path: the whole text is also in what trains: val shows no more" in caplog.text


def test_tuning_leaves_own_texts_unseen(make):
    files = {"a.txt": ASCII, "v.txt": "validates\n" * 3, "t.txt": "tests\n" * 5}
    task = make(files, path="a.txt", val_path="v.txt", test_path="t.txt", tune=True)
    assert task.splits == ("train", "val", "train_sample")
    assert held(task, "train") + held(task, "val") == ASCII
    assert len(held(task, "val")) == len(ASCII) // 10


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_own_text_that_is_too_short_is_named(make, split):
    files = {"a.txt": ASCII, "v.txt": "short"}
    with pytest.raises(UserError, match=rf"the {split} split of task text has 5 tokens"):
        make(files, path="a.txt", **{f"{split}_path": "v.txt"})
    with pytest.raises(UserError, match=rf"there is no file .*no\.txt \(task\.{split}_path\)"):
        make(files, path="a.txt", **{f"{split}_path": "no.txt"})


def test_files_of_a_folder_need_one(make):
    with pytest.raises(UserError, match=r"task\.files=\*\.py: chooses files of a folder"):
        make({"a.txt": ASCII}, path="a.txt", files="*.py")
    task = make({"a.txt": ASCII, "d/x.py": ASCII}, path="d", files="*.py", val_path="a.txt")
    assert held(task, "train") == held(task, "val") == ASCII + END


@pytest.mark.parametrize("text", [ASCII, WIDE])
@pytest.mark.parametrize("tokenizer", ["char", "bytes", "bpe:280"])
def test_bits_are_those_of_the_windows_scored(make, tokenizer, text):
    """Against the definition: the nats of all tokens but the first, over what they stand for."""
    task = make({"a.txt": text}, path="a.txt", tokenizer=tokenizer, val_fraction=0.3)
    ids = task._data["val"].long()
    val = held(task, "val")
    assert val == text[int(len(text) * 0.7) :]
    model = Bigram(task.spec.vocab_size)
    total = nats(model.table[ids[:-1]], ids[1:]) * (len(ids) - 1) / math.log(2)
    found = task.evaluate(model, "val")
    first = task.tokenizer.decode([int(ids[0])])
    assert found["val/bits_per_char"] == pytest.approx(total / (len(val) - len(first)), rel=1e-5)
    if text is ASCII:
        assert "val/bits_per_byte" not in found
    else:
        count = len(val.encode()) - len(first.encode())
        assert found["val/bits_per_byte"] == pytest.approx(total / count, rel=1e-5)
    units = {"char": "character", "bytes": "byte", "bpe:280": "token"}
    assert task.loss_unit == f"nats per {units[tokenizer]}"
    assert f"; {units[tokenizer]}s: " in task.describe_data()


def test_a_model_that_knows_nothing_has_the_same_bits_per_byte_as_it_should(make):
    class Uniform(torch.nn.Module):
        def forward(self, tokens):
            return torch.zeros(*tokens.shape, 256)

    task = make({"a.txt": WIDE}, path="a.txt", tokenizer="bytes")
    assert task.evaluate(Uniform(), "val")["val/bits_per_byte"] == pytest.approx(8, rel=1e-6)


def test_tokens_are_learnt_from_what_trains_alone(make):
    text = ASCII + "zq" * 400  # a pair that only the validation part has
    changed = ASCII + "qz" * 400
    first, second = (
        make({"a.txt": t}, path="a.txt", tokenizer="bpe:280", val_fraction=0.25)
        for t in (text, changed)
    )
    assert first.tokenizer.sha256() == second.tokenizer.sha256()
    assert "zq" not in first.tokenizer.tokens()
    assert first.fingerprint()["tokenizer"] == first.tokenizer.sha256()
    few = make({"a.txt": text}, 0.3, path="a.txt", tokenizer="bpe:280", val_fraction=0.25)
    assert few.tokenizer.sha256() == first.tokenizer.sha256()  # as the characters of a text
    tuned = make({"a.txt": text}, path="a.txt", tokenizer="bpe:280", val_fraction=0.25, tune=True)
    assert tuned.tokenizer.sha256() != first.tokenizer.sha256()


def test_the_end_is_a_tokenizers_own(make, tmp_path):
    """A tokenizer.json with a token that ends a text has it after each document."""
    tokenizer = byte_pairs.make("bpe:280", [ASCII], "E")
    for name, content in tokenizer.assets().items():
        (tmp_path / name).write_text(content)
    task = make({"a.txt": ASCII, "b.txt": ASCII}, path=["a.txt", "b.txt"], tokenizer=".")
    assert held(task, "val").endswith("on\nE")
    assert task._data["val"][-1] == task.tokenizer.eos_id
    learnt = make({}, path=["a.txt", "b.txt"], tokenizer="bpe:280")
    assert learnt._data["val"][-1] == learnt.tokenizer.eos_id
    assert held(learnt, "val").endswith(END)


def test_a_data_set_of_the_hub_brings_its_splits(make, tmp_path):
    folder = tmp_path / "hub" / "someone" / "stories"
    folder.mkdir(parents=True)
    for split, count in (("train", 40), ("validation", 8), ("test", 9)):
        table = pa.table({"text": [f"story {n} of {split}" for n in range(count)]})
        pq.write_table(table, folder / f"{split}.parquet")
    task = make({}, path="hf:someone/stories")
    assert held(task, "val").startswith(f"story 0 of validation{END}story 1")
    assert held(task, "test").count(END) == 9
    assert task.fingerprint().keys() == {"sha256", "hub", "path", "files"}
    with pytest.raises(UserError, match=r"task\.val_path goes with files"):
        make({"v.txt": ASCII}, path="hf:someone/stories", val_path="v.txt")
    (folder / "test.parquet").unlink()
    assert make({}, path="hf:someone/stories").splits == ("train", "val", "train_sample")


def test_many_small_files_are_read(make, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(2000):
        (folder / f"{n:04}.txt").write_text(f"{n:04}")
    task = make({}, path="many")
    assert held(task, "train").startswith(f"0000{END}0001{END}")
    assert task.fingerprint()["files"] == "2,000"


def test_texts_that_train_and_are_held_out_are_named(make, caplog):
    files = {"d/a.txt": ASCII, "d/v.txt": "validates\n" * 3, "e/t.txt": "tests\n" * 5}
    make(files, path="d", val_path="d/v.txt", test_path="d/v.txt")
    said = [record.message for record in caplog.records]
    assert "task.val_path: the whole text is also in what trains: val shows no more" in said
    assert "task.test_path: the whole text is also in what trains: test shows no more" in said
    assert "task.test_path: the whole text is also in the val split: test shows no more" in said
    caplog.clear()
    make(files | {"e/v.txt": files["d/v.txt"]}, path=["d/a.txt", "d/v.txt"], val_path="e")
    assert "task.val_path: 1 of the 2 texts is also in what trains" in caplog.text
    assert "shows no more" not in caplog.text
    caplog.clear()
    make(
        {"a.txt": ASCII + "validates\n" * 3, "v.txt": files["d/v.txt"]},
        path="a.txt",
        val_path="v.txt",
    )
    assert "task.val_path: the whole text is also in what trains" in caplog.text
    caplog.clear()
    make(files, path="d/a.txt", val_path="d/v.txt", test_path="e/t.txt")
    assert not caplog.text


def test_what_classify_keeps_of_a_table_is_no_text(make, tmp_path):
    files = {"d/a.txt": ASCII, "d/b.txt": WIDE}
    plain = make(files, path="d").fingerprint()
    store = tmp_path / "d/reviews.csv.store/1f"
    store.mkdir(parents=True)
    (store / "index.npz").touch()
    (store / "rejected.txt").write_text("row 7: no label")
    assert make(files, path="d").fingerprint() == plain
    (store / "index.npz").unlink()  # a folder of somebody's with such a name
    assert make(files, path="d").fingerprint() != plain
