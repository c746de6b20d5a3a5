"""What `from mambalab import ...` offers to other programs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mambalab import config
from mambalab.config.overrides import assignment, prepare
from mambalab.errors import UserError
from mambalab.records.run_folder import RunFolder
from mambalab.runs.language_model import LoadedLanguageModel, language_model
from mambalab.settings.model import ModelSettings
from mambalab.settings.train import Precision


def load(
    name: str | os.PathLike[str] = "latest",
    *,
    tokenizer: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    output_dir: str | os.PathLike[str] = "outputs",
    data_dir: str | os.PathLike[str] | None = None,
    trust: Sequence[str] = (),
) -> LoadedLanguageModel:
    """Load a language model with its tokenizer: a run of mambalab's, or a published Mamba-1.

    >>> from mambalab import load
    >>> source = load("state-spaces/mamba-130m-hf")  # doctest: +SKIP
    >>> tokens = torch.tensor([source.tokenizer.encode("Mamba is")])  # doctest: +SKIP
    >>> source.model(tokens).shape  # doctest: +SKIP
    torch.Size([1, 4, 50280])

    Args:
        name: a run folder, `latest`, the folder of a checkpoint (of transformers'
            MambaForCausalLM or of the original code), or owner/name on the Hugging Face hub.
        tokenizer: of a checkpoint that has none: tokenizer.json, a folder, or owner/name.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32 or bf16; what `LoadedLanguageModel.precision` is, weights are float32.
        output_dir: where `latest` looks.
        data_dir: where what comes from the hub is kept; None = $MAMBALAB_DATA_DIR, else ./data.
        trust: modules outside mambalab whose classes a run may use.

    Raises:
        UserError: no such model, or it cannot be loaded; one line says why.
    """
    if precision not in Precision.__members__:
        raise UserError(f"precision={precision}: choose one of {', '.join(Precision.__members__)}")
    name = os.fspath(name)
    is_run = name == "latest" or RunFolder(Path(name).expanduser()).config.is_file()
    if is_run and tokenizer is not None:
        raise UserError(f"tokenizer={tokenizer}: {name} is a run and has its own")
    data_dir = data_dir or os.environ.get("MAMBALAB_DATA_DIR") or "data"
    return language_model(
        run=name if is_run else "latest",
        pretrained=None if is_run else name,
        tokenizer=tokenizer,
        output_dir=Path(output_dir).expanduser(),
        data_dir=Path(data_dir).expanduser(),
        device=device,
        precision=Precision[precision],
        trust=list(trust),
    )


def model_settings(option: str = "mamba", **changes: Any) -> ModelSettings:
    """Make the settings of a model as `mambalab train model=OPTION model.KEY=VALUE ...` has them.

    >>> import torch
    >>> from mambalab import model_settings
    >>> from mambalab.models import Mamba, MambaBlock
    >>> settings = model_settings(d_model=64, d_state=16)
    >>> mixer, block = Mamba(settings), MambaBlock(settings)
    >>> mixer(torch.randn(2, 100, 64)).shape  # (B, L, d_model)
    torch.Size([2, 100, 64])

    With a state the same layer goes on where it stopped:

    >>> x = torch.randn(2, 100, 64)
    >>> state = mixer.initial_state(batch_size=2, max_len=100)
    >>> first, second = mixer(x[:, :60], state), mixer(x[:, 60:], state)
    >>> torch.allclose(torch.cat((first, second), dim=1), mixer(x), atol=1e-5)
    True

    Args:
        option: mamba, transformer, transformer_equal_depth, hybrid, or one of ./conf/model.
        **changes: keys of the group `model`, such as d_model, n_layer, d_state, d_conv, expand.

    Raises:
        UserError: an unknown option or key, a value that is not allowed.
    """
    values = [assignment(f"model.{key}", value, ()) for key, value in changes.items()]
    overrides = prepare("train", [f"model={option}", *values])
    return config.compose("train", overrides).model
