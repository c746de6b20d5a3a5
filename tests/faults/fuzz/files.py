"""Data files as people have them and as nobody has them, each given to a training of one step."""

import gzip
import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from tests.faults import damage
from tests.faults.fuzz import odd
from tests.faults.fuzz.batch import Input
from tests.faults.scene import COMMON
from tests.lab import TEXT

STEP = [*COMMON, "tracking=jsonl", "trainer.max_steps=1", "trainer.eval_every=1"]
ENCODINGS = (
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-be",
    "utf-32",
    "latin-1",
    "cp1252",
    "shift_jis",
)
IMAGE_FORMATS = ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm")


def command(*words: str) -> tuple[tuple[str, ...], ...]:
    """One training of one step."""
    return (("train", *words, *STEP),)


def texts(rng: random.Random, count: int) -> list[Input]:
    """Texts: encodings, line ends, bytes that belong nowhere, sizes."""

    def prepare(place: Path, seed: int) -> None:
        own = random.Random(seed)
        text = TEXT[: own.choice((0, 1, 5, 50, 400, 4000))]
        text = text.replace("\n", own.choice(("\n", "\r\n", "\r", "\n\n", "\0", "\u2028")))
        text = text.replace("fox", own.choice(("fox", "Füchse", "狐", "😀", "\x1b]0;OWNED\x07")))
        data = text.encode(own.choice(ENCODINGS), "replace")
        (place / "text.txt").write_bytes(odd.mutated(data, own) if own.random() < 0.6 else data)
        if own.random() < 0.1:
            damage.damage(place / "text.txt", own.choice(damage.WAYS), own)

    words = ("task=text", "task.path=text.txt", "task.seq_len=16", "task.batch_size=2")
    return _many("data: text", prepare, command(*words), rng, count)


def pairs(rng: random.Random, count: int) -> list[Input]:
    """Tables of pairs: TSV and CSV, quotes, columns, encodings."""

    def prepare(place: Path, seed: int) -> None:
        own = random.Random(seed)
        sep = own.choice(("\t", "\t", "\t", ",", ";", "  "))
        rows = []
        for number in range(own.choice((0, 1, 2, 30, 120))):
            cells = [own.choice(("0", "1", "yes", "")), f"text {number}", f"<{number}>"]
            if own.random() < 0.05:
                cells[own.randrange(3)] = own.choice(
                    ('"', '"a\tb"', "\u00a0", "a" * 3000, "\0", "")
                )
            if own.random() < 0.03:
                cells = cells[: own.randrange(4)] + ["x"] * own.randrange(3)
            rows.append(sep.join(cells))
        data = own.choice(("\n", "\n", "\r\n", "\r")).join(rows).encode(own.choice(ENCODINGS[:6]))
        (place / "rows").write_bytes(odd.mutated(data, own) if own.random() < 0.6 else data)
        (place / "rows").rename(place / f"pairs.{(seed % 2 and 'tsv') or 'csv'}")

    found = []
    for _ in range(count):
        seed = rng.randrange(2**32)
        words = ("task=pairs", f"task.path=pairs.{(seed % 2 and 'tsv') or 'csv'}")
        commands = command(*words, "task.batch_size=2", "task.max_bytes=40")
        found.append(_one("data: TSV and CSV", prepare, commands, seed))
    return found


def images(rng: random.Random, count: int) -> list[Input]:
    """Folders of images: every format, mode and size, hidden files, links, layouts."""

    def prepare(place: Path, seed: int) -> None:
        import numpy as np
        from PIL import Image

        own = random.Random(seed)
        pixels = np.random.default_rng(seed)
        for split in own.choice((("",), ("",), ("train", "test"), ("train", "val", "test"))):
            for name in own.sample(
                ("cat", "dog", "é", ".hidden", "two words"), own.choice((1, 2, 3))
            ):
                folder = place / "images" / split / name
                folder.mkdir(parents=True)
                for number in range(own.choice((0, 2, 6))):
                    mode = own.choice(("RGB", "RGB", "L", "RGBA", "1", "P"))
                    size = own.choice(((12, 12), (12, 12), (1, 1), (300, 2)))
                    image = Image.fromarray(
                        pixels.integers(0, 255, (*size, 3), dtype=np.uint8)
                    ).convert(mode)
                    ending = own.choice(IMAGE_FORMATS)
                    path = folder / f"{own.choice(('', '', '._', '.'))}{number}.{ending}"
                    try:
                        image.save(path)
                    except (OSError, ValueError):  # no such mode in that format
                        image.convert("RGB").save(path)
                    if own.random() < 0.3:
                        path.write_bytes(odd.mutated(path.read_bytes(), own))
                    elif own.random() < 0.05:
                        damage.damage(path, own.choice(damage.WAYS), own)
        if own.random() < 0.1:
            (place / "images" / "loop").symlink_to("..")
        (place / "images").mkdir(exist_ok=True)

    words = ("task=images", "task.path=images", "task.image_size=8", "task.patch_size=4")
    words += ("task.val_size=1", "task.test_size=1", "task.batch_size=2")
    return _many("data: images", prepare, command(*words), rng, count)


def idx(rng: random.Random, count: int) -> list[Input]:
    """The four files of MNIST."""

    def prepare(place: Path, seed: int) -> None:
        own = random.Random(seed)
        folder = place / "data" / "MNIST" / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        for name, amount in (("train", 60), ("t10k", 20)):
            shapes = struct.pack(">IIII", 2051, amount, 28, 28), struct.pack(">II", 2049, amount)
            bodies = own.randbytes(amount * 784), bytes(n % 10 for n in range(amount))
            for kind, head, body in zip(
                ("images-idx3", "labels-idx1"), shapes, bodies, strict=True
            ):
                path = folder / f"{name}-{kind}-ubyte"
                path.write_bytes(head + body)
                if own.random() < 0.4:
                    head_bytes = bytearray(path.read_bytes())
                    head_bytes[own.randrange(16)] = own.choice((0, 1, 8, 127, 255))
                    data = bytes(head_bytes)
                    path.write_bytes(data if own.random() < 0.5 else odd.mutated(data, own))
                if own.random() < 0.5:
                    packed = gzip.compress(path.read_bytes(), 1)
                    packed = odd.mutated(packed, own) if own.random() < 0.3 else packed
                    path.unlink()
                    path.with_name(f"{path.name}.gz").write_bytes(packed)

    words = ("task=mnist", "data_dir=data", "task.val_size=10", "task.batch_size=4")
    return _many("data: idx", prepare, command(*words, *NO_NETWORK), rng, count)


NO_NETWORK = ("data_fraction=0.5",)


def parquet(rng: random.Random, count: int) -> list[Input]:
    """The parquet files of CIFAR-10."""

    def prepare(place: Path, seed: int) -> None:
        import io

        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq
        from PIL import Image

        own = random.Random(seed)
        folder = place / "data" / "cifar10"
        folder.mkdir(parents=True)
        for name in ("train", "test"):
            rows = []
            for number in range(own.choice((0, 12, 40))):
                file = io.BytesIO()
                shape = (32, 32, 3) if own.random() < 0.9 else (5, 7, 3)
                picture = np.full(shape, number, dtype=np.uint8)
                Image.fromarray(picture).save(file, own.choice(("png", "png", "jpeg")))
                data = file.getvalue()
                if own.random() < 0.05:
                    data = odd.mutated(data, own)
                label = number % 10 if own.random() < 0.97 else own.choice((-1, 10, 10**9))
                rows.append({"img": {"bytes": data, "path": None}, "label": label})
            path = folder / f"{name}.parquet"
            table = pa.Table.from_pylist(rows or [{"img": None, "label": None}])
            if own.random() < 0.1:
                table = table.rename_columns(["image", own.choice(("label", "labels"))])
            pq.write_table(table, path)
            if own.random() < 0.4:
                path.write_bytes(odd.mutated(path.read_bytes(), own))

    words = ("task=cifar10", "data_dir=data", "task.batch_size=2", "task.val_size=4")
    return _many("data: parquet", prepare, command(*words), rng, count)


def tokenizers(rng: random.Random, count: int) -> list[Input]:
    """A tokenizer.json of a person's own."""
    whole = _tokenizer()

    def prepare(place: Path, seed: int) -> None:
        own = random.Random(seed)
        (place / "text.txt").write_text(TEXT[:3000])
        path = place / "tokenizer.json"
        path.write_text(json.dumps(whole))
        odd.spoil(path, own)

    words = ("task=text", "task.path=text.txt", "task.tokenizer=tokenizer.json")
    words += ("task.seq_len=16", "task.batch_size=2")
    return _many("data: tokenizer.json", prepare, command(*words), rng, count)


def _tokenizer() -> dict:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["?"], show_progress=False)
    made.train_from_iterator(TEXT[:3000].splitlines(), trainer)
    return json.loads(made.to_str())


def confs(rng: random.Random, count: int) -> list[Input]:
    """A ./conf of one's own in the working directory."""
    from mambalab.config import paths

    source = Path(str(paths.__file__)).parents[2] / "conf"
    files = sorted(p.relative_to(source) for p in source.rglob("*.yaml"))

    def prepare(place: Path, seed: int) -> None:
        own = random.Random(seed)
        for name in own.sample(files, 3):
            target = place / "conf" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target)
            odd.spoil(target, own)

    found = []
    for _ in range(count):
        verb = rng.choice(("train", "train", "eval", "generate", "runs", "sync", "compare"))
        commands = ((verb, "--cfg", "job"), (verb, "--help"))
        found.append(_one("./conf damaged", prepare, commands, rng.randrange(2**32)))
    return found


def _many(
    family: str,
    prepare: Callable[[Path, int], None],
    commands: tuple[tuple[str, ...], ...],
    rng: random.Random,
    count: int,
) -> list[Input]:
    return [_one(family, prepare, commands, rng.randrange(2**32)) for _ in range(count)]


def _one(
    family: str,
    prepare: Callable[[Path, int], None],
    commands: tuple[tuple[str, ...], ...],
    seed: int,
) -> Input:
    return Input(family, f"file {seed}", commands, lambda place: prepare(place, seed))
