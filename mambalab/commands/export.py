"""`mambalab export`: write a run's model as a checkpoint that other programs load."""

from pathlib import Path
from typing import Any

import yaml

from mambalab import config
from mambalab.data.hub_repository import is_repository
from mambalab.errors import UserError
from mambalab.models.heads import count_parameters
from mambalab.pretrained import export
from mambalab.pretrained.layout import Layout
from mambalab.records import reader
from mambalab.runs import load
from mambalab.settings.export import ExportSettings
from mambalab.tokenization.tokenizer import VOCABULARY, Characters, Tokenizer, of_run

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


def run(settings: ExportSettings) -> int:
    """Write the folder and say so. Returns 0.

    Raises:
        UserError: no such run, a model that the layout cannot hold, a folder in use.
    """
    assert settings.out is not None, "checked before"
    out, layout = Path(settings.out).expanduser(), Layout(settings.to.value)
    path = reader.resolve_run(settings.run, Path(settings.output_dir))
    export.check_target(out, settings.overwrite)
    loaded = load.load_run(path, device="cpu", trust=settings.trust)
    if why := export.obstacle(loaded.model, loaded.settings.model, layout):
        raise UserError(f"{path} cannot be exported: its model {why}")
    if (tokenizer := of_run(path)) is None:
        raise UserError(f"{path} cannot be exported: it has no {VOCABULARY}")
    card = _card(loaded, layout, tokenizer)
    model = loaded.settings.model
    export.write(
        out,
        loaded.model,
        model,
        layout=layout,
        tokenizer=tokenizer,
        card=card,
        overwrite=settings.overwrite,
    )
    print(f"{out}: {path} at step {loaded.step:,}, {count_parameters(loaded.model):,} parameters")
    return 0


def _card(loaded: load.LoadedRun, layout: Layout, tokenizer: Tokenizer) -> str:
    """The model card: data, how it was trained, what was measured, by which code."""
    summary = loaded.summary.to_json()
    plain: dict[str, Any] = config.to_plain(loaded.settings)
    parts = {key: plain[key] for key in _PARTS}
    source, begun = parts["task"].get("path"), parts["model"].get("pretrained")
    for part, key in (("task", "path"), ("task", "tokenizer"), ("model", "pretrained")):
        if value := parts[part].get(key):  # a stranger has no use for folders of this machine
            parts[part] = {**parts[part], key: _public(value)}
    measured = {
        key: value
        for group in ("best", "test")
        for key, value in (summary.get(group) or {}).items()
        if isinstance(value, (int, float)) and key != "step"
    }
    facts = {
        "step": f"{loaded.step:,}",
        **{key: f"{value:.4f}" for key, value in measured.items()},
        "device": summary.get("device"),
        "code revision": summary.get("git_revision"),
        "torch": (summary.get("packages") or {}).get("torch"),
    }
    characters = isinstance(tokenizer, Characters)
    return _CARD.format(
        library=_LIBRARY[layout],
        title=f"{loaded.settings.model.name}, {loaded.settings.task.name}",
        parameters=count_parameters(loaded.model),
        version=(summary.get("packages") or {}).get("mambalab", "of an unknown version"),
        task=loaded.settings.task.name,
        data=f" (`{Path(source).name}`)" if source else "",
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
    return name if is_repository(name) and not Path(name).exists() else Path(name).name
