"""Language modelling of texts with published splits: enwik8, text8, WikiText."""

from __future__ import annotations

from typing import cast

from mambalab.data.catalog import CATALOG
from mambalab.data.corpora import Corpus, WikiText
from mambalab.errors import UserError
from mambalab.tasks.text import TextTask

_OF_TEXT = ("path", "files", "column", "val_path", "test_path")


class PublishedTask(TextTask):
    """A text whose splits `train`, `val` and `test` are published; `data_dir` has it, or it is
    fetched.

    `test` is measured once, with the best weights, when a run has ended. With `task.tune=true` the
    last tenth of the training split is `val`, and there is no `test`.

    Attributes:
        corpus: name of the data set.
    """

    splits = ("train", "val", "test", "train_sample")
    corpus: str

    def has_ends(self) -> bool:
        """Whether documents have ends: they have not, the text is one."""
        return False

    def read_splits(self) -> tuple[dict[str, str], dict[str, str]]:
        """Find or fetch the text, and cut it as published; with its fingerprint.

        Raises:
            UserError: it cannot be had, or is another one; or settings name another text.
        """
        for key in _OF_TEXT:
            if (value := getattr(self.settings, key)) is not None:
                raise UserError(
                    f"task.{key}={value}: task={self.name} has its own text and splits; for a text "
                    "of yours use task=text"
                )
        texts, path, sha256 = self.published()
        return texts, {"sha256": sha256, "path": path, "splits": "published"}

    def published(self) -> tuple[dict[str, str], str, str]:
        """The texts of the splits, where they are, and the sha256 of all.

        Raises:
            UserError: they cannot be had, or are not the published ones.
        """
        raise NotImplementedError


class Enwik8Task(PublishedTask):
    """enwik8: the first 90 million bytes train, 5 million validate, 5 million test.

    A split that would begin within a character of UTF-8 begins after it.
    """

    corpus = "enwik8"

    def published(self) -> tuple[dict[str, str], str, str]:
        """The texts of the splits, where they are, and the sha256 of the unpacked file."""
        corpus = cast(Corpus, CATALOG[self.corpus])
        parts, path = corpus.read(self.data_dir)
        texts = {split: part.decode() for split, part in parts.items()}
        return texts, str(path), corpus.content_sha256


class Text8Task(Enwik8Task):
    """text8, cut as enwik8: 27 characters, all of them ASCII."""

    corpus = "text8"


class WikiText2Task(PublishedTask):
    """WikiText-2, raw: whole words in the place of `<unk>`. So perplexities of words, published for
    the other form, do not compare; bits per byte do."""

    corpus = "wikitext2"

    def published(self) -> tuple[dict[str, str], str, str]:
        """The lines of each split joined, the folder of the files, and a sha256 of all of them."""
        corpus = cast(WikiText, CATALOG[self.corpus])
        texts, folder = corpus.read(self.data_dir)
        return texts, str(folder), corpus.sha256


class WikiText103Task(WikiText2Task):
    """WikiText-103, raw: a hundred times the training text, the other splits of WikiText-2."""

    corpus = "wikitext103"
