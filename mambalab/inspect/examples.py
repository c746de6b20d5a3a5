"""What `mambalab inspect` lets a run read: a text, or an example of its validation split."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mambalab.errors import UserError, shown
from mambalab.generation.text_stream import REPLACEMENT_CHARACTER, continuation
from mambalab.inspect import hidden
from mambalab.inspect.sequence import InspectedSequence, InspectInput, by_pixel
from mambalab.runs import build, data_place, load
from mambalab.tasks.classification import ClassificationTask
from mambalab.tasks.classify import ClassifyTask
from mambalab.tasks.diffusion import DiffusionTask
from mambalab.tasks.images import ImageTask
from mambalab.tasks.pixels import PixelModelTask
from mambalab.tasks.stored import StoredTextTask
from mambalab.tasks.synthetic import EVAL_SEED, AnswerTask
from mambalab.tasks.text import END, TextTask
from mambalab.tokenization.tokenizer import FileTokenizer, Tokenizer, load_from_run

MAX_STEPS = 4_000  # steps that a page can show, of each text of a pair
MAX_ATTENTION_STEPS = 1_024  # the same with attention, whose maps grow with the square
_PIECE_CHARACTERS = 1_000  # characters of the validation split
_NEUTRAL_TEXT = (
    "The old man went down to the river in the morning, and there he found a boat.\n"
    "He looked at it for a long time. Then he said: Who has left this here, and why?\n"
)


def choose(
    loaded: load.LoadedRun,
    text: str | None,
    index: int | None,
    data_dir: str | None,
    path: str | None = None,
) -> InspectInput:
    """What a run is given to read: a text, or an example of its validation split.

    Args:
        loaded: the run.
        text: for language models; None = a piece of the validation split, or a text of ours.
        index: for other tasks, of the example; None = 0.
        data_dir: folder of the data sets; None = as the run recorded.
        path: where the file or folder of `task.path` is; None looks for it.

    Raises:
        UserError: it does not fit the run's task, is too long, or the data are absent.
    """
    ours = not loaded.spec.classes and not loaded.spec.masked
    tokenizer = load_from_run(loaded.path) if ours else None
    if tokenizer is not None:
        if index is not None:
            raise UserError(
                "index: this run is a language model, give it a text to read (text=...)"
            )
        origin = "as given"
        if text is None:
            room = getattr(loaded.model, "context_limit", None) or _PIECE_CHARACTERS
            text, origin = _piece(loaded, data_dir, path, tokenizer, min(room, _PIECE_CHARACTERS))
        found = of_text(text, origin, tokenizer, loaded.device)
    elif text is not None:
        name = loaded.settings.task.name
        reads = "is asked for what is hidden" if loaded.spec.masked else "reads no text"
        raise UserError(
            f"text: task {name} {reads}; index=N picks an example of its validation split"
        )
    else:
        found = _example(loaded, data_dir, path, index or 0)
    limit = getattr(loaded.model, "context_limit", None)
    check_length(found, limit, loaded.settings.model.attends())
    return found


def check_length(given: InspectInput, limit: int | None, attention: bool) -> None:
    """Raise UserError if a sequence is longer than a page can show, or than the model knows.

    Args:
        given: the sequence.
        limit: steps that the model was trained on, if it knows no more.
        attention: whether it has attention layers, whose maps take most room.
    """
    length, most = len(given.sequence.labels), MAX_STEPS
    if given.sequence.second is not None:
        most *= 2
    if length > most:
        raise UserError(f"{length:,} steps are more than inspect shows: at most {most:,}")
    if limit is not None and length > limit:
        raise UserError(
            f"the text has {length:,} tokens, but this model was trained on {limit:,}: "
            "give a shorter one"
        )
    if attention and length > MAX_ATTENTION_STEPS:
        raise UserError(
            f"{length:,} steps are more than inspect shows of attention: "
            f"at most {MAX_ATTENTION_STEPS:,}"
        )


def of_text(
    text: str | None, origin: str, tokenizer: Tokenizer, device: torch.device
) -> InspectInput:
    """A text that a language model reads, each token a step.

    Args:
        text: None for one of our own, without what the tokenizer lacks.
        origin: where it is from, for people.
        tokenizer: of the model.
        device: of the model.

    Raises:
        UserError: something in it has no token, or it has none at all.
    """
    if text is None:
        text, origin = _known(_NEUTRAL_TEXT, tokenizer), "ours"
    tokens = tokenizer.encode(text)
    if not tokens:
        raise UserError(f"the text {shown(text)} holds no token that this model knows")
    ids = torch.tensor(tokens, device=device)[None]
    befores = [None, *tokens[:-1]]
    labels = [_label(tokenizer, *pair) for pair in zip(befores, tokens, strict=True)]
    single = labels == list(text)
    unit = "character" if single else "token"
    title = f"{len(text):,} characters" + ("" if single else f", {len(tokens):,} tokens")
    sequence = InspectedSequence(title, [("text", origin)], labels=labels, text=True)

    def answer(logits: Tensor, sequence: InspectedSequence) -> None:
        losses = F.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="none")
        sequence.loss = np.concatenate([[np.nan], losses.cpu().numpy()])
        likeliest = logits[0, :-1, : tokenizer.vocab_size].argmax(-1).tolist()
        guesses = zip(tokens, likeliest, strict=False)
        sequence.guesses = ["", *(_label(tokenizer, before, guess) for before, guess in guesses)]
        if len(tokens) > 1:
            mean = f"{float(losses.mean()):.4f} nats per {unit}"
            sequence.facts.append(("loss on this text", mean))

    return InspectInput(ids, None, sequence, answer)


def _label(tokenizer: Tokenizer, before: int | None, token: int) -> str:
    """The text of a token after another one: many tokenizers leave out a first word's blank."""
    alone = tokenizer.decode([token])
    if before is None or REPLACEMENT_CHARACTER in alone:  # a part of a character
        return alone
    return continuation(tokenizer, [before], [token])


def _piece(
    loaded: load.LoadedRun,
    data_dir: str | None,
    path: str | None,
    tokenizer: Tokenizer,
    length: int,
) -> tuple[str, str]:
    """A text of `length` characters at most, and where it is from.

    It is a piece of the validation split if the data are where the run found them; nothing is
    fetched. Else it is a text of our own, without characters that the model lacks.
    """
    record, trained = loaded.summary.data or {}, loaded.settings
    found_at = data_place.places(loaded) if path is None else data_place.candidates(loaded, path)
    if found_at:
        trained = dataclasses.replace(
            trained, task=dataclasses.replace(trained.task, **found_at[0])
        )
    here = found_at and data_place.on_disk(found_at[0])
    if here or "path" not in record or Path(record["path"]).exists():
        vocabulary = load.own_tokenizer(loaded.path, trained)
        task: Any = build.build_task(trained, data_dir=data_dir, vocabulary=vocabulary)
        if isinstance(task, TextTask):
            try:
                texts, found = task.read_splits()
            except UserError:
                found, texts = {}, {}
            if texts and found.get("sha256") == record.get("sha256"):
                text = texts["train"]
                part = texts.get("val", text[int(len(text) * (1 - task.settings.val_fraction)) :])
                start = part.find("\n\n", 0, _PIECE_CHARACTERS) + 2  # a paragraph's beginning
                start = start if start > 1 and len(part) - start >= length else 0
                piece = part[start : start + length]
                if task.has_ends() and isinstance(tokenizer, FileTokenizer):
                    piece = piece.replace(END, tokenizer.end() or END)  # as it was learnt
                return _fitting(piece, tokenizer, length), "a piece of the validation split"
    known = _fitting(_known(_NEUTRAL_TEXT, tokenizer)[:length], tokenizer, length)
    if not known:
        raise UserError("the run's data are not where it found them: give it a text (text=...)")
    return known, "ours: the run's data are not where it found them"


def _fitting(text: str, tokenizer: Tokenizer, most: int) -> str:
    """The beginning of a text that has at most so many tokens; some have several a character."""
    while text and (count := len(tokenizer.encode(text))) > most:
        text = text[: len(text) * most // count]
    return text


def _known(text: str, tokenizer: Tokenizer) -> str:
    """A text without the characters for which there is no token."""

    def has(character: str) -> bool:
        try:
            return bool(tokenizer.encode(character))
        except UserError:
            return False

    found = {character for character in set(text) if has(character)}
    return "".join(character for character in text if character in found)


def _example(
    loaded: load.LoadedRun, data_dir: str | None, path: str | None, index: int
) -> InspectInput:
    """An example of the validation split of a task that is no language modelling."""
    task: Any = data_place.prepared_task(loaded, path=path, data_dir=data_dir)
    if isinstance(task, AnswerTask):
        _check_index(index, task.settings.eval_sequences, task.name)
        return _question(task, index)
    if isinstance(task, DiffusionTask):
        _check_index(index, len(task.shown("val")), task.name)
        return hidden.example(task, index)
    if isinstance(task, PixelModelTask):
        _check_index(index, len(task.labels["val"]), task.name)
        return _picture(task, index, getattr(loaded.model, "context_limit", None))
    if not isinstance(task, ClassificationTask):
        raise UserError(
            f"inspect does not know how to show task {task.name}: it can show texts, sequences "
            "with a class, and the synthetic tasks"
        )
    labels = task.labels["val"]
    _check_index(index, len(labels), task.name)
    inputs, lengths = task.inputs("val", np.array([index]), None)
    title = f"{task.name}, example {index:,} of the validation split"
    sequence = InspectedSequence(
        title, [("true class", task.classes[int(labels[index])])], labels=[]
    )
    if isinstance(task, ImageTask):
        pixels = task.pixels["val"][index]
        sequence.image = pixels.permute(1, 2, 0).cpu().numpy()
        sequence.layout = _layout(task, pixels)
    _show_steps(task, sequence, inputs, lengths)

    def answer(logits: Tensor, sequence: InspectedSequence) -> None:
        share, taken = logits[0].float().softmax(-1).max(-1)
        name = task.classes[int(taken)]
        sequence.facts.append(("the model says", f"{name} ({100 * float(share):.1f} %)"))

    return InspectInput(inputs, lengths, sequence, answer)


def _show_steps(
    task: ClassificationTask, sequence: InspectedSequence, inputs: Tensor, lengths: Tensor | None
) -> None:
    """What each step of the inputs, a batch of one, is to people, padding left out."""
    if isinstance(task, ClassifyTask) and task.reader is not None:
        tokens = inputs[0, : inputs.shape[1] if lengths is None else int(lengths[0])].tolist()
        pairs = zip([None, *tokens[:-1]], tokens, strict=True)
        sequence.labels, sequence.text = [_label(task.reader, *pair) for pair in pairs], True
        return
    if isinstance(task, StoredTextTask) and task.words is None:
        _show_texts(sequence, inputs, lengths)
        return
    end = inputs.shape[1] if lengths is None else int(lengths[0])
    if not task.spec.vocab_size:
        sequence.labels = [f"step {step}" for step in range(end)]
        return
    words = task.words or [str(token) for token in range(task.spec.vocab_size)]
    sequence.labels = [words[int(token)] for token in inputs[0, :end].tolist()]


def _show_texts(sequence: InspectedSequence, inputs: Tensor, lengths: Tensor | None) -> None:
    """A text, or both of a pair, as characters, a byte each, without padding."""
    texts = inputs[0].reshape(-1, inputs.shape[-1])
    whole = [inputs.shape[-1]] * len(texts)
    ends = whole if lengths is None else lengths[0].reshape(-1).tolist()
    for row, end in zip(texts.tolist(), ends, strict=True):
        sequence.labels += [
            chr(byte) if byte < 128 else "\N{REPLACEMENT CHARACTER}" for byte in row[:end]
        ]
    sequence.text, sequence.second = True, ends[0] if len(ends) == 2 else None


def _question(task: AnswerTask, index: int) -> InspectInput:
    length = task.settings.seq_len
    tokens, answers = task.sequences(EVAL_SEED, index, 1, length, f"val {length}")
    expected = answers[0].tolist()
    title = f"{task.name}, example {index:,} of the validation split"
    facts = [("right answer", " ".join(map(str, expected)))]
    sequence = InspectedSequence(title, facts, labels=[str(token) for token in tokens[0].tolist()])

    def answer(logits: Tensor, sequence: InspectedSequence) -> None:
        last = logits[0, -len(expected) :].argmax(-1).tolist()
        sequence.facts.append(("the model answers", " ".join(map(str, last))))

    return InspectInput(tokens.to(task.device), None, sequence, answer)


def _layout(task: ImageTask, pixels: Tensor) -> np.ndarray:
    """(height, width) step in which each pixel is read: the task cuts an image of numbers."""
    channels, height, width = pixels.shape
    numbers = torch.arange(height * width, dtype=torch.float32, device=pixels.device)
    image = numbers.view(1, 1, height, width).expand(1, channels, -1, -1)
    steps = task.sequence(image)[0].round().long().cpu()  # (L, input_dim) numbers of pixels
    layout = torch.empty(height * width, dtype=torch.int64)
    layout[steps] = torch.arange(len(steps))[:, None].expand_as(steps)
    return layout.view(height, width).numpy()


def _check_index(index: int, total: int, name: str) -> None:
    if index >= total:
        raise UserError(
            f"index={index}: the validation split of task {name} has {total:,} examples (0 to "
            f"{total - 1:,})"
        )


def _picture(task: PixelModelTask, index: int, limit: int | None) -> InspectInput:
    """A picture of the validation split as the model reads it.

    Args:
        task: prepared.
        index: of the picture.
        limit: steps that the model was trained on, if it knows no more; then the last value, which
            training never reads, is left out.
    """
    tokens = task.tokens
    inputs, targets = task.inputs("val", np.array([index]))
    if limit is None:
        inputs = torch.cat((inputs, targets[:, -1:]), dim=1)
    length = inputs.shape[1]
    label = int(task.labels["val"][index])
    first = f"class {tokens.classes[label]}" if tokens.classes else "start"
    labels = [first, *map(str, inputs[0, 1:].tolist())]
    title = f"{task.name}, example {index:,} of the validation split"
    facts = [("told", first)] if tokens.classes else []
    sequence = InspectedSequence(title, facts, labels=labels)
    sequence.image = tokens.pictures(targets)[0].numpy()
    # A pixel is read at the step of its last channel, one later than it is predicted.
    ends = tokens.channels * (1 + torch.arange(tokens.height * tokens.width))
    sequence.layout = ends.clamp(max=length - 1).view(tokens.height, tokens.width).numpy()

    def answer(logits: Tensor, sequence: InspectedSequence) -> None:
        known = logits[0, : tokens.values, : tokens.levels].float()
        losses = F.cross_entropy(known, targets[0], reduction="none").cpu()
        sequence.loss = losses.view(-1, tokens.channels).sum(1).numpy()
        sequence.guesses = by_pixel(map(str, known.argmax(-1).tolist()), tokens.channels)
        bits = float(losses.mean() / np.log(2))
        sequence.facts.append(("loss on this picture", f"{bits:.4f} bits per value"))

    return InspectInput(inputs, None, sequence, answer)
