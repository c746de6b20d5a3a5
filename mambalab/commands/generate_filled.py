"""`mambalab generate` of a run of `task=diffusion`: pictures and texts are filled in."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab.settings.generate import GenerateSettings, Order
from mambalab.utils import console

if TYPE_CHECKING:
    from mambalab.generation.sampling import Sampling
    from mambalab.runs.diffusion_model import LoadedDenoiser

LOG = logging.getLogger("mambalab")


def run(settings: GenerateSettings, path: Path) -> int:
    """Fill in pictures or texts with a model of `task=diffusion`; returns 0.

    Raises:
        UserError: an option that is for other runs, no such class or checkpoint, a prompt or a
            picture that cannot be read, a file that cannot be written.
    """
    from mambalab.commands import generate
    from mambalab.runs import diffusion_model, diffusion_pictures
    from mambalab.tokenization.pixels import PixelTokens

    source = diffusion_model.load(
        path,
        device=settings.device,
        precision=settings.precision,
        trust=settings.trust,
        which=settings.checkpoint,
    )
    source.order = settings.order or Order.random
    rules = generate.drawing_rules(settings, source.kinds)
    if not isinstance(source.meaning, PixelTokens):
        settings.check_filled_text(str(path))
        _fill_texts(settings, source, rules)
        return 0
    settings.check_filled_pictures(str(path))
    out = path / generate.GENERATED if settings.out is None else Path(settings.out).expanduser()
    frames, animation = (
        None if name is None else Path(name).expanduser()
        for name in (settings.frames, settings.animation)
    )
    files = diffusion_pictures.Files(out, frames, animation)
    found = diffusion_pictures.write_pictures(
        source,
        files,
        count=settings.num_samples,
        label=settings.class_name,
        image=settings.prompt_image,
        rows=settings.rows,
        mask_image=settings.mask_image,
        steps=settings.steps,
        rules=rules,
        seed=settings.seed,
        batch=settings.batch,
    )
    for file in filter(None, (out, frames, animation)):
        console.result(file)
    LOG.info(found)
    return 0


def _fill_texts(settings: GenerateSettings, source: "LoadedDenoiser", rules: "Sampling") -> None:
    """Fill in texts and print them; their stages go to a file.

    Raises:
        UserError: a prompt that cannot be read or has nothing to fill in; a file that cannot be
            written.
    """
    from mambalab.commands import generate
    from mambalab.runs import diffusion_texts, pixel_sheet

    prompts = [""]  # nothing is given
    if settings.prompt is not None or settings.prompt_file is not None:
        prompts = generate.given_prompts(settings)
    frames = None if settings.frames is None else Path(settings.frames).expanduser()
    if frames is not None:
        pixel_sheet.check_place(frames, "frames", ".txt", {"prompt_file": settings.prompt_file})
    found = diffusion_texts.texts(
        source,
        prompts,
        gap=settings.gap or diffusion_texts.GAP,
        more=settings.max_new_tokens,
        count=settings.num_samples,
        steps=settings.steps,
        rules=rules,
        seed=settings.seed,
        batch=settings.batch,
        stages=frames is not None,
    )
    for number, one in enumerate(found, 1):
        if settings.json:
            record = {"prompt": one.prompt, "text": one.text, "tokens": one.characters}
            console.result(json.dumps(record | {"steps": one.steps, "seed": one.seed}))
        elif len(found) > 1:
            console.result(f"--- {number} ---\n{one.text}", exact=True)
        else:
            console.result(one.text, exact=True)
    if frames is not None:
        diffusion_texts.write_stages(frames, found)
    made = sum(one.characters for one in found)
    LOG.info("filled in %s character%s", f"{made:,}", "s"[: made != 1])
