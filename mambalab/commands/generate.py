"""`mambalab generate`: let a trained language model write a text, as it goes along, or pictures."""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambalab.commands import generate_filled
from mambalab.errors import UserError, shown
from mambalab.settings.generate import GenerateSettings
from mambalab.settings.train import Precision
from mambalab.utils import console
from mambalab.utils.renamed import current

if TYPE_CHECKING:
    import torch

    from mambalab.generation.sampling import Sampling
    from mambalab.generation.text_stream import Writer
    from mambalab.tokenization.tokenizer import Tokenizer

LOG = logging.getLogger("mambalab")
MAX_NEW_TOKENS = 500  # of a text, if nothing else is said
TEMPERATURE = 0.8  # of texts, likewise
GENERATED = "generated.png"  # file of a run's folder


@dataclass
class Speed:
    """Tokens and seconds, of reading the prompts and of writing.

    The first token of each text comes out of reading its prompt: it is written, but `later`
    and `writing` are those of the others.
    """

    read: int = 0
    reading: float = 0.0
    written: int = 0
    later: int = 0
    writing: float = 0.0

    def rate(self) -> float | None:
        """Tokens a second, or None if no text has a second token."""
        return self.later / self.writing if self.later and self.writing else None

    def line(self) -> str:
        """One line that says how much was read and written, and how fast."""
        words = f"read {self.read:,} tokens in {self.reading:.2f} s, wrote {self.written:,}"
        if (rate := self.rate()) is not None:
            words += f", {rate:,.0f} a second after the first"
        return words


def run(settings: GenerateSettings) -> int:
    """Write to standard output; the speed goes to standard error. Returns 0.

    Raises:
        UserError: no such run, it is no language model, a prompt that it cannot read.
    """
    import torch

    from mambalab.generation.cpu_decode import narrowed
    from mambalab.generation.decoding import obstacle
    from mambalab.models.heads import LanguageModel
    from mambalab.records import reader
    from mambalab.runs import diffusion_model, language_model, pixel_model
    from mambalab.train import runtime

    runtime.prepare_process()
    if settings.pretrained is None:
        path = reader.resolve_run(settings.run, Path(settings.output_dir))
        if diffusion_model.is_denoiser(path):
            return generate_filled.run(settings, path)
        if pixel_model.is_pixel_model(path):
            settings.check_pictures(str(path))
            return _draw(settings, path)
        settings.check_text(str(path))
    source = language_model.language_model(
        run=settings.run,
        output_dir=Path(settings.output_dir),
        pretrained=settings.pretrained,
        tokenizer=settings.tokenizer,
        data_dir=Path(settings.data_dir).expanduser(),
        device=settings.device,
        precision=settings.precision,
        trust=settings.trust,
        which=settings.checkpoint,
    )
    if why := obstacle(source.model):
        raise UserError(
            f"{source.name} cannot generate: its model {type(source.model).__name__} {why} "
            f"(see mambalab.generation.decoding.Generator)"
        )
    if source.precision is Precision.bf16 and isinstance(source.model, LanguageModel):
        source.model = narrowed(source.model)
    _warn_of_slowness(source)
    prompts, start = _prompts(settings, source.tokenizer)
    tokens = [_read(source, prompt, start) for prompt in prompts]
    length = settings.max_new_tokens or MAX_NEW_TOKENS
    _warn_of_window(source.model.context_limit, tokens, length)
    wanted = [b for b in range(len(prompts)) for _ in range(settings.num_samples)]
    alone = len(wanted) == 1 and not settings.json
    speed = Speed()
    if alone:
        console.result(prompts[0], end="", exact=True)
    for start in range(0, len(wanted), settings.batch):
        rows = wanted[start : start + settings.batch]
        seed = settings.seed + start
        with torch.inference_mode():
            writers = _write(settings, source, [tokens[b] for b in rows], seed, alone, speed)
        for number, (b, writer) in enumerate(zip(rows, writers, strict=True)):
            if settings.json:
                console.result(json.dumps(_record(prompts[b], writer, seed + number, speed)))
            elif not alone:
                text = f"--- {start + number + 1} ---\n{prompts[b]}{writer.text}"
                console.result(text, exact=True)
    if alone:
        console.result()
    LOG.info(speed.line())
    return 0


def drawing_rules(settings: GenerateSettings, allowed: int) -> "Sampling":
    """How a value of a picture, or of a gap, is chosen: at temperature 1 if nothing else is said.

    Args:
        settings: of the command.
        allowed: kinds of values, the first tokens of the vocabulary; no others are drawn.
    """
    from mambalab.generation.sampling import Sampling

    return Sampling(
        temperature=1.0 if settings.temperature is None else settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        allowed=allowed,
    )


def _draw(settings: GenerateSettings, path: Path) -> int:
    """Write a sheet of pictures and print where it is; returns 0.

    Raises:
        UserError: no such class, a picture that cannot be read, a file that cannot be written.
    """
    from mambalab.runs import pixel_model, pixel_sheet

    source = pixel_model.load(
        path,
        device=settings.device,
        precision=settings.precision,
        trust=settings.trust,
        which=settings.checkpoint,
    )
    _warn_of_slowness(source)
    rules = drawing_rules(settings, source.tokens.levels)
    out = path / GENERATED if settings.out is None else Path(settings.out).expanduser()
    found = pixel_sheet.write_sheet(
        source,
        out,
        count=settings.num_samples,
        label=settings.class_name,
        image=settings.prompt_image,
        rows=settings.rows,
        rules=rules,
        seed=settings.seed,
        batch=settings.batch,
    )
    console.result(out)
    LOG.info(found)
    return 0


def _prompts(settings: GenerateSettings, tokenizer: "Tokenizer") -> tuple[list[str], int | None]:
    """The prompts; if none was given, the text of the start token, and that token."""
    if settings.prompt is None and settings.prompt_file is None:
        start = current(tokenizer, "start_token", "opening")()
        return [tokenizer.decode([start])], start
    return given_prompts(settings), None


def given_prompts(settings: GenerateSettings) -> list[str]:
    """The prompts that were given; raises UserError for a file that cannot be read."""
    if settings.prompt_file is None:
        if not settings.prompt:
            raise UserError('prompt is empty: give at least one character, as in prompt="ROMEO:"')
        return [settings.prompt]
    path = Path(settings.prompt_file).expanduser()
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except IsADirectoryError:
        raise UserError(f"prompt_file={path} is a folder: name a text file") from None
    except OSError as error:
        raise UserError(f"prompt_file={path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"prompt_file={path}: not UTF-8 at byte {error.start}") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # as texts to learn from are read
    found = [line for line in text.split("\n") if line.strip()] if settings.each_line else [text]
    if not found or not found[0]:
        raise UserError(f"prompt_file={path}: it is empty")
    return found


def _read(source: Any, prompt: str, start: int | None) -> "torch.Tensor":
    """The tokens of a prompt, on the model's device; `start` stands for one without text."""
    import torch

    from mambalab.runs.diffusion_texts import GAP
    from mambalab.tokenization.vocabulary import NoTokenError

    try:
        ids = source.tokenizer.encode(prompt)
    except NoTokenError as error:
        if GAP not in prompt:
            raise
        raise UserError(f"{error}; gaps are for runs of task=diffusion, which fill in") from None
    limit = source.model.context_limit
    if not len(ids) and start is not None:
        ids = [start]  # a token whose text is nothing, or a blank that is left out
    if not len(ids):
        raise UserError(f"the prompt {shown(prompt)} holds no token that this model knows")
    if limit is not None and len(ids) > limit:
        raise UserError(
            f"the prompt has {len(ids)} tokens, but this model was trained on {limit}: "
            "give a shorter one"
        )
    return torch.tensor(ids, dtype=torch.int64, device=source.device)


def _warn_of_slowness(source: Any) -> None:
    """Say so if the compiled kernels, which write fast on a CPU, cannot run here."""
    import torch

    from mambalab.models.heads import LanguageModel
    from mambalab.ops import backend

    ours = source.device.type == "cpu" and isinstance(source.model, LanguageModel)
    if ours and (why := backend.obstacle("cpu", source.device, torch.float32)):
        LOG.warning("writing without the compiled CPU kernels: %s", why)


def _warn_of_window(limit: int | None, tokens: "list[torch.Tensor]", more: int) -> None:
    """Say so if a text can become longer than what the model reads at a time."""
    if limit is not None and max(map(len, tokens)) + more - 1 > limit:
        LOG.warning(
            "this model was trained on %s tokens at a time (task.seq_len): whenever a text has "
            "filled them, its latest half is read again and goes on from there",
            f"{limit:,}",
        )


def _write(
    settings: GenerateSettings,
    source: Any,
    tokens: "list[torch.Tensor]",
    seed: int,
    alone: bool,
    speed: Speed,
) -> "list[Writer]":
    """Write a batch of texts to their end; adds its tokens and seconds to `speed`."""
    from mambalab.generation.decoding import generate
    from mambalab.generation.sampling import Sampling
    from mambalab.generation.text_stream import Writer
    from mambalab.train import runtime

    writers = [Writer(source.tokenizer, settings.stop, prompt.tolist()) for prompt in tokens]
    rules = Sampling(
        temperature=TEMPERATURE if settings.temperature is None else settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        repetition_penalty=settings.repetition_penalty,
        allowed=source.tokenizer.vocab_size,
    )
    started = time.perf_counter()
    with runtime.autocast(source.device, source.precision):
        length = settings.max_new_tokens or MAX_NEW_TOKENS
        steps = generate(source.model, tokens, max_new_tokens=length, rules=rules, seed=seed)
        first = next(steps).tolist()
        read = time.perf_counter()
        _take(writers, first, alone)
        for new in steps:
            if all(writer.stopped_by for writer in writers):
                break
            _take(writers, new.tolist(), alone)
    speed.written += sum(writer.tokens for writer in writers)
    speed.later += sum(writer.tokens - 1 for writer in writers)
    speed.writing += time.perf_counter() - read
    speed.reading += read - started
    speed.read += sum(map(len, tokens))
    for writer in writers:
        rest = writer.finish()
        if alone:
            console.result(rest, end="", exact=True)
    return writers


def _take(writers: "list[Writer]", tokens: list[int], alone: bool) -> None:
    for writer, token in zip(writers, tokens, strict=True):
        piece = writer.add(token)
        if alone and piece:
            console.result(piece, end="", exact=True)


def _record(prompt: str, writer: "Writer", seed: int, speed: Speed) -> dict[str, Any]:
    rate = speed.rate()
    return {
        "prompt": prompt,
        "text": writer.text,
        "tokens": writer.tokens,
        "stopped_by": writer.stopped_by or "length",
        "seed": seed,
        "tokens_per_second": None if rate is None else round(rate, 1),
    }
