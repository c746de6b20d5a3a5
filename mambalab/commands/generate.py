"""`mambalab generate`: let a trained language model write, as it goes along."""

import sys
import time
from pathlib import Path

import torch

from mambalab.commands import assemble
from mambalab.commands.settings import GenerateSettings
from mambalab.errors import UserError
from mambalab.generate import generate, obstacle
from mambalab.report import collect
from mambalab.tasks.vocabulary import Vocabulary
from mambalab.train import runtime


def run(settings: GenerateSettings) -> int:
    """Write to standard output; the speed goes to standard error. Returns 0.

    Raises:
        UserError: no such run, it is no language model, an unknown character in the prompt.
    """
    runtime.prepare_process()
    path = collect.resolve_run(settings.run, Path(settings.output_dir))
    loaded = assemble.load_run(path, device=settings.device, trust=settings.trust)
    if not (path / assemble.VOCABULARY).exists():
        raise UserError(
            f"{path} is no language model: its task {loaded.settings.task.name} has no vocabulary "
            f"({assemble.VOCABULARY})"
        )
    if why := obstacle(loaded.model):
        raise UserError(
            f"{path} cannot generate: its model {type(loaded.model).__name__} {why} "
            f"(see mambalab.generate.Generator)"
        )
    vocabulary = Vocabulary.load(path / assemble.VOCABULARY)
    if not settings.prompt:
        raise UserError('prompt is empty: give at least one character, such as prompt="ROMEO:"')
    ids = torch.from_numpy(vocabulary.encode(settings.prompt)).to(loaded.device)
    limit = loaded.model.context_limit
    if limit is not None and len(settings.prompt) > limit:
        raise UserError(
            f"the prompt has {len(settings.prompt)} characters, but this model was trained on "
            f"{limit}: give a shorter one"
        )
    prompt = ids.expand(settings.num_samples, -1)
    alone = settings.num_samples == 1
    texts = [settings.prompt] * settings.num_samples
    if alone:
        print(settings.prompt, end="", flush=True)
    started = time.perf_counter()
    with runtime.autocast(loaded.device, loaded.precision):
        tokens = generate(
            loaded.model,
            prompt,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            seed=settings.seed,
        )
        for new in tokens:
            letters = vocabulary.decode(new.cpu())
            texts = [text + letter for text, letter in zip(texts, letters, strict=True)]
            if alone:
                print(letters, end="", flush=True)
    seconds = time.perf_counter() - started
    if alone:
        print()
    else:
        for number, text in enumerate(texts, 1):
            print(f"--- {number} ---\n{text}")
    written = settings.max_new_tokens * settings.num_samples
    print(f"{written:,} characters, {written / seconds:,.0f} a second", file=sys.stderr)
    return 0
