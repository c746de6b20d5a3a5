"""A corpus in the format of Long Range Arena's document retrieval, made up, so that it can be
known what has to be read to solve it:

    python -m mambalab.bench.lra_corpus FOLDER --train 5000 --eval 500 --test 500

Every document has one of four hidden topics; a pair has label 1 if both topics are equal, which
half of the pairs are. A topic shows in nothing but spelling: two in five words belong to families
of four anagrams (stare, tears, rates, aster), and a document of topic t writes a word of a family
as its t-th anagram three times in four, else as any of the four. Which families and other words
come where is drawn without regard to topics, all over the document.

Two controls must fail for that reason, and a model that beats them has really compared two texts:

- *One document alone*: its topic is one of four with equal probability whatever the label, so
  document and label are independent.
- *Bags of bytes of both documents*: anagrams have the same letters, so a document's histogram is
  fixed before its topic is drawn, and independent of topics and label. (Families never begin a
  sentence: a capital letter would give the spelling away. A text that is cut within a word of a
  family shows part of one word; the files' documents end where a word ends.)

Lengths are drawn without regard to topics, too, from 70 % to 100 % of `--bytes`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mambalab.data.lra_archive import file_name
from mambalab.errors import UserError
from mambalab.tasks.sampling import draw, permutation, uniform

FAMILIES = (
    ("stare", "tears", "rates", "aster"),
    ("least", "slate", "stale", "tales"),
    ("spare", "spear", "parse", "pears"),
    ("notes", "stone", "onset", "tones"),
    ("items", "times", "mites", "smite"),
    ("steam", "teams", "meats", "mates"),
    ("leap", "pale", "peal", "plea"),
    ("spin", "pins", "nips", "snip"),
)
"""Words of the same letters; the place of a word in its family is the topic that it speaks for."""

NOISE = """
the of and to in is that for it as was with be by on not he his but at are this have from or had
an they which one you were her all she there would their we him been has when who will more no
if out so said what up its about into than them can only other new some could these two may then
do first any my now such like our over man me even most made after also did many before must
through years where much your way well down should because each just those people how too little
state good very make world still own see men work long get here between both life being under
never day same another know while last might us great old year off come since against go came
right used take three
""".split()  # noqa: SIM905
"""Words that mean nothing for the label."""

TOPICS = 4
EVIDENCE = 0.4
"""Share of words that belong to a family."""
FAITHFUL = 0.75
"""Share of these that are spelt for the document's topic; the rest speak for a random one."""
SENTENCE = 9
"""Mean number of words in a sentence."""


class Writer:
    """Makes documents; number n of a seed is always the same text.

    Args:
        size: most bytes in a document, at least 100.
        seed: of everything random.
    """

    def __init__(self, size: int, seed: int) -> None:
        family = [f" {word}" for words in FAMILIES for word in words]
        inside = [f" {word}" for word in NOISE]
        opening = [f". {word.capitalize()}" for word in NOISE]
        self._pieces = np.array([piece.encode() for piece in family + inside + opening], object)
        self._lengths = np.array([len(piece) for piece in self._pieces])
        self._size, self._seed = size, seed
        self._words = size // 4 + 1  # more than can be needed: pieces have 5 bytes on average

    def document(self, number: int, topic: int) -> bytes:
        """Text number `number` about `topic`: ASCII, whole sentences of words and blanks."""
        count, noise = self._words, len(NOISE)

        def drawn(bound: int, stream: str) -> np.ndarray:
            return draw(self._seed, number, count=count, bound=bound, stream=stream)

        def share(stream: str) -> np.ndarray:
            return uniform(self._seed, number, count=count, stream=stream)

        opens = share("opens") < 1 / SENTENCE
        opens[0] = True
        evident = (share("evident") < EVIDENCE) & ~opens
        speaks = np.where(share("faithful") < FAITHFUL, topic, drawn(TOPICS, "topic"))
        spelt = drawn(len(FAMILIES), "family") * TOPICS + speaks
        other = len(FAMILIES) * TOPICS + drawn(noise, "noise") + noise * opens
        chosen = np.where(evident, spelt, other)
        most = self._size - int(share("length")[0] * 0.3 * self._size)
        # The text loses the first piece's ". " and gains a final ".".
        fits = int(np.searchsorted(np.cumsum(self._lengths[chosen]) - 1, most, side="right"))
        return b"".join(self._pieces[chosen[:fits]])[2:] + b"."


def write(
    folder: Path,
    *,
    train: int = 5000,
    eval: int = 500,
    test: int = 500,
    size: int = 4000,
    seed: int,
) -> None:
    """Write new_aan_pairs.{train,eval,test}.tsv, each whole or not at all.

    Args:
        folder: made if need be; files of these names in it are replaced.
        train, eval, test: pairs in each file, at least 2; half of them (rounded down) match.
        size: most bytes in a document, at least 100.
        seed: of everything random.

    Raises:
        UserError: a number too small, or the folder cannot be written.
    """
    counts = {"train": train, "eval": eval, "test": test}
    for name, count in counts.items():
        if count < 2:
            raise UserError(f"--{name} {count}: at least 2 pairs are needed, one of each label")
    if size < 100:
        raise UserError(f"--bytes {size}: a document needs at least 100 bytes")
    writer, done = Writer(size, seed), 0
    for name, count in counts.items():
        path = folder / file_name(name)
        part = path.with_name(path.name + ".part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("wb") as file:
                    for row, (label, topics) in enumerate(_pairs(count, seed, name)):
                        numbers = (2 * (done + row), 2 * (done + row) + 1)
                        texts = [
                            writer.document(*pair) for pair in zip(numbers, topics, strict=True)
                        ]
                        ids = [f"D{number:07d}".encode() for number in numbers]
                        file.write(b"\t".join((b"%d.0" % label, *ids, *texts)) + b"\n")
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        done += count


def _pairs(count: int, seed: int, name: str) -> Sequence[tuple[int, tuple[int, int]]]:
    """Label and topics of each row; half of the labels are 1, in random order."""
    labels = permutation(seed, 0, count, f"{name} labels") < count // 2
    first = draw(seed, 0, count=count, bound=TOPICS, stream=f"{name} topics")
    shift = 1 + draw(seed, 1, count=count, bound=TOPICS - 1, stream=f"{name} topics")
    second = np.where(labels, first, (first + shift) % TOPICS)
    both = zip(first.tolist(), second.tolist(), strict=True)
    return list(zip(labels.astype(int).tolist(), both, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a corpus as the command line asks; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mambalab.bench.lra_corpus",
        description="Write a made-up corpus in the format of LRA's document retrieval.",
    )
    parser.add_argument("folder", type=Path, help="where the three files go")
    for name, count in (("train", 5000), ("eval", 500), ("test", 500)):
        parser.add_argument(f"--{name}", type=int, default=count, help="pairs (%(default)s)")
    parser.add_argument("--bytes", type=int, default=4000, help="of a document (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(%(default)s)")
    chosen = parser.parse_args(arguments)
    try:
        write(
            chosen.folder,
            train=chosen.train,
            eval=chosen.eval,
            test=chosen.test,
            size=chosen.bytes,
            seed=chosen.seed,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{chosen.folder.absolute()}: use it with task=retrieval task.path={chosen.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
