"""The model card (README.md) of an exported checkpoint."""

from pathlib import Path
from typing import Any

import yaml

from mambalab.data.hub import is_repository
from mambalab.pretrained.layout import Layout
from mambalab.tokenization.tokenizer import Characters, Tokenizer

_CARD = """\
---
library_name: {library}
pipeline_tag: text-generation
tags:
- mamba
- mambalab
---

# {title}

A {level}-level Mamba-1 language model of {parameters:,} parameters, trained with mambalab
{version} on the task `{task}`{data}{begun}.

| | |
|---|---|
{facts}

{tokens}

No licence is stated here: what holds is that of the data{more}.

{usage}

## Settings

```yaml
{settings}```
"""
_CHARACTERS = """\
Its {count:,} tokens are single characters; `tokenizer.json` has none for any other character, and
encoding a text that holds one raises an error (nothing is dropped or replaced)."""
_TOKENS = "Its {count:,} tokens are those of `tokenizer.json`."
_USAGE = {
    Layout.hf: """\
```python
from transformers import AutoTokenizer, MambaForCausalLM

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = MambaForCausalLM.from_pretrained("FOLDER")
```""",
    Layout.original: """\
`mamba_ssm.models.mixer_seq_simple.MambaLMHeadModel.from_pretrained("FOLDER")` reads it.""",
}
_LIBRARY = {Layout.hf: "transformers", Layout.original: "mamba-ssm"}
_PARTS = ("task", "model", "dropout", "optim", "trainer", "seed", "precision", "data_fraction")


def text(
    settings: dict[str, Any],
    summary: dict[str, Any],
    *,
    step: int,
    parameters: int,
    layout: Layout,
    tokenizer: Tokenizer,
) -> str:
    """The model card: data, how it was trained, what was measured, by which code.

    Args:
        settings: the run's configuration as plain values.
        summary: the run's `summary.json`.
        step: optimiser steps that the weights were trained for.
        parameters: how many the model has.
        layout: of the exported checkpoint.
        tokenizer: of the run.
    """
    parts = {key: settings[key] for key in _PARTS}
    title, task = parts["model"]["name"], parts["task"]["name"]
    source, begun = parts["task"].get("path"), parts["model"].get("pretrained")
    sources = [source] if isinstance(source, str) else source or []
    places = [("task", key) for key in ("path", "val_path", "test_path", "tokenizer")]
    for part, key in (*places, ("model", "pretrained")):
        if value := parts[part].get(key):  # a stranger has no use for folders of this machine
            public = _public(value) if isinstance(value, str) else list(map(_public, value))
            parts[part] = {**parts[part], key: public}
    measured = {
        key: value
        for group in ("best", "test")
        if (summary.get(group) or {}).get("step", step) == step  # else other weights were measured
        for key, value in (summary.get(group) or {}).items()
        if isinstance(value, (int, float)) and key != "step"
    }
    facts = {
        "step": f"{step:,}",
        "weights": f"moving average, decay {ema:g}" if (ema := summary.get("ema")) else None,
        **{key: f"{value:.4f}" for key, value in measured.items()},
        "device": summary.get("device"),
        "code revision": summary.get("git_revision"),
        "torch": (summary.get("packages") or {}).get("torch"),
    }
    characters = isinstance(tokenizer, Characters)
    return _CARD.format(
        library=_LIBRARY[layout],
        title=f"{title}, {task}",
        parameters=parameters,
        version=(summary.get("packages") or {}).get("mambalab", "of an unknown version"),
        task=task,
        data=f" (`{'`, `'.join(Path(one).name for one in sources)}`)" if sources else "",
        begun=f", beginning with the weights of `{_public(begun)}`" if begun else "",
        more=" and of the weights it began with" if begun else "",
        facts="\n".join(f"| {key} | {value} |" for key, value in facts.items() if value),
        level="character" if characters else "token",
        tokens=(_CHARACTERS if characters else _TOKENS).format(count=tokenizer.vocab_size),
        usage=_USAGE[layout],
        settings=yaml.safe_dump(parts, sort_keys=False, allow_unicode=True),
    )


def _public(name: str) -> str:
    """owner/name of the hub as it is; of a path its last part."""
    hub = is_repository(name.removeprefix("hf:"))
    return name if hub and not Path(name).exists() else Path(name).name
