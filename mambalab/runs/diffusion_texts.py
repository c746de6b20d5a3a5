"""Fills in texts for `mambalab generate`: prompts with gaps, and the stages on the way."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mambalab.errors import UserError, shown
from mambalab.generation.sampling import Sampling
from mambalab.runs.diffusion_model import LoadedDenoiser
from mambalab.utils.files import write_text

GAP = "_"  # character of a prompt that is filled in, if nothing else is said


@dataclass(frozen=True)
class FilledText:
    """A text that was filled in.

    Attributes:
        prompt: what was given.
        text: the whole of it.
        characters: of it that were filled in.
        steps: that it took.
        seed: alone gives it again.
        stages: lines with its stages, the number of steps before each.
    """

    prompt: str
    text: str
    characters: int
    steps: int
    seed: int
    stages: list[str]


def texts(
    source: LoadedDenoiser,
    prompts: list[str],
    *,
    gap: str,
    more: int | None,
    count: int,
    steps: int | None,
    rules: Sampling,
    seed: int,
    batch: int,
    stages: bool,
) -> list[FilledText]:
    """Fill in the gaps of texts.

    Args:
        source: the model.
        prompts: texts with gaps; after one without any, gaps up to the length of training follow.
        gap: character that stands for one that is filled in.
        more: gaps to add after each prompt, instead.
        count: of texts for each prompt.
        steps: as of `LoadedDenoiser.plan`.
        rules, seed, batch: as of `infilling.fill`.
        stages: whether to keep them.

    Raises:
        UserError: a prompt has a character that the model does not know, is too long, or has no
            gap.
    """
    sequences = [_with_gaps(source, prompt, gap, more) for prompt in prompts]
    found: list[FilledText] = []
    for prompt, ids in zip(prompts, sequences, strict=True):
        gaps = int((ids == source.spec.mask).sum())
        source.plan(steps, gaps)
        filled = source.fill(
            ids.expand(count, -1),
            rules=rules,
            seed=seed + len(found),
            batch=batch,
            stages=source.steps + 1 if stages else 0,
        )
        for number, tokens in enumerate(filled.tokens):
            kept = [] if filled.stages is None else filled.stages[:, number]
            lines = [
                f"{step:>5}  {_line(source, stage, gap)}"
                for step, stage in zip(filled.at, kept, strict=True)
            ]
            text = source.text.decode(tokens.tolist())
            own = seed + len(found)
            found.append(FilledText(prompt, text, gaps, filled.steps, own, lines))
    return found


def _with_gaps(source: LoadedDenoiser, prompt: str, gap: str, more: int | None) -> Tensor:
    """Tokens (l,) int64 of a prompt and of the gaps after it."""
    limit = source.spec.seq_len
    if more is None:
        more = 0 if gap in prompt else limit - len(prompt)
    if len(prompt) + max(more, 0) > limit:
        room = limit - len(prompt)
        if more > 0 and room > 0:
            behind = f" after the {len(prompt):,} of the prompt" if prompt else ""
            raise UserError(
                f"max_new_tokens={more:,}: this model was trained on {limit:,} characters "
                f"(task.seq_len), which leaves room for {room:,}{behind}"
            )
        raise UserError(
            f"the prompt has {len(prompt):,} characters, but this model was trained on {limit:,} "
            f"(task.seq_len), those to be filled in included: give a shorter one"
        )
    if more == 0 and gap not in prompt:
        raise UserError(
            f"the prompt {shown(prompt[:20])} ... leaves nothing to fill in: it has no gap "
            f"({gap}), and is as long as this model knows texts"
        )
    stand_in = source.text.decode([0])
    ids = torch.tensor(source.text.encode(prompt.replace(gap, stand_in)), dtype=torch.int64)
    gaps = torch.tensor([character == gap for character in prompt], dtype=torch.bool)
    return torch.cat(
        (ids.masked_fill(gaps, source.spec.mask), torch.full((more,), source.spec.mask))
    )


def _line(source: LoadedDenoiser, ids: Tensor, gap: str) -> str:
    """A stage of a text as one line, its new lines as escapes."""
    found = [gap if i == source.spec.mask else source.text.decode([i]) for i in ids.tolist()]
    return "".join(found).replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def write_stages(path: Path, found: list[FilledText]) -> None:
    """Write the stages of texts, a block for each if there are several.

    Raises:
        UserError: the file cannot be written.
    """
    parts: list[str] = []
    for number, one in enumerate(found, 1):
        parts += [f"--- {number} ---"] * (len(found) > 1) + one.stages
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "\n".join(parts) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; name another with frames="
        ) from error
