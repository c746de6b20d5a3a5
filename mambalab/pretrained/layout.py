"""The two published layouts of a Mamba-1 language model: what their config.json says.

*original*: state-spaces/mamba's own (`d_model`, `n_layer`, `ssm_cfg`); *hf*: that of transformers'
MambaForCausalLM (`model_type: mamba`, `hidden_size`). Names of tensors are ours in both, but for
the embedding's in hf.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.settings.model import AUTO, ModelSettings, Pooling, Rotary, ScanBackend
from mambalab.tokenization.ends import KEY, numbers

CONFIG = "config.json"
OURS, THEIRS = "backbone.embedding.", "backbone.embeddings."
MAX_SIZE = 100_000_000  # of a dimension: products of two of them are sizes still
MAX_LAYERS = 2_000  # published models have up to 64
NORM_EPS = 1e-5  # of the original code, whose config cannot say another
_TRAINING_ONLY = {"dt_min", "dt_max", "dt_init", "dt_init_floor", "dt_scale", "use_fast_path"}
# An absent key has the default of the format, not one of ours: that of MambaConfig of transformers
# (*hf*), of MambaConfig and Mamba of state-spaces/mamba (*original*).
_HF_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 32,
    "vocab_size": 50280,
    "state_size": 16,
    "conv_kernel": 4,
    "expand": 2,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    KEY: 0,
}
_ORIGINAL_DEFAULTS = {"pad_vocab_size_multiple": 8, "tie_embeddings": True}
_ORIGINAL_SSM_DEFAULTS = {"d_state": 16, "d_conv": 4, "expand": 2}
# What `ModelSettings` asks for and the formats do not have. None of it changes what a trained model
# of Mamba layers computes: dt_* are for initialisation (the values are mamba_ssm's), the rest is
# for attention layers, classifiers and, of positions, models that `export.obstacle` refuses.
_WITHOUT_EFFECT: dict[str, Any] = {
    "dt_min": 0.001,
    "dt_max": 0.1,
    "dt_init_floor": 0.0001,
    "n_head": AUTO,
    "d_ff": AUTO,
    "rope_theta": 10000.0,
    "rotary": Rotary.sequence,
    "qk_norm": False,
    "patch_norm": False,
    "position_embedding": False,
    "pooling": Pooling.mean,
}
_PLACE = {"device", "dtype", "layer_idx"}  # where and how weights are made, not what they compute
_SSM = {"d_state", "d_conv", "expand", "dt_rank", "bias", "conv_bias", "layer"}


class Layout(Enum):
    """How config and tensors are written."""

    hf = "hf"
    original = "original"


@dataclass(frozen=True)
class Description:
    """A model as its config.json describes it.

    Attributes:
        layout: of the files.
        settings: of our model.
        rows: of the embedding: the vocabulary with its padding.
        eos_id: the token that ends a text if no file names one: a default of the layout.
        ends: tokens that end a text, as the config says.
    """

    layout: Layout
    settings: ModelSettings
    rows: int
    eos_id: int | None
    ends: tuple[int, ...] = ()


class _Values:
    """Checks the values of a config as they are read; an absent key has the format's default.

    Args:
        file: the config's path, for messages.
        values: what the file says.
        defaults: of the format.
        within: the part of the config that `values` is, for messages.
    """

    def __init__(
        self, file: Path, values: dict[str, Any], defaults: dict[str, Any], within: str = ""
    ) -> None:
        self.file, self.values, self.defaults, self.within = file, values, defaults, within

    def get(self, key: str) -> Any:
        """The value of a key, or its default; None if it has neither."""
        return self.values.get(key, self.defaults.get(key))

    def refuse(self, key: str, why: str) -> UserError:
        """Make the error that names the file, the key and its value."""
        value = self.values.get(key)
        return UserError(f"{self.file}: {self.within}{key}={value!r}: {why}")

    def size(self, key: str, most: int = MAX_SIZE) -> int:
        """Read a whole number of at least 1 and at most `most`."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refuse(key, "must be a whole number")
        if not 1 <= value <= most:  # nor NaN
            raise self.refuse(key, f"must be at least 1 and at most {most:,}")
        if value != int(value):
            raise self.refuse(key, "must be a whole number")
        return int(value)

    def number(self, key: str) -> float:
        """Read a number above 0."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e30:
            raise self.refuse(key, "must be a number above 0")
        return float(value)

    def truth(self, key: str) -> bool:
        """Read true or false."""
        value = self.get(key)
        if not isinstance(value, bool):
            raise self.refuse(key, "must be true or false")
        return value

    def rank(self, key: str, d_model: int) -> int:
        """Read the rank of the delta projection; `auto`, the default, is ceil(d_model / 16)."""
        if self.values.get(key, "auto") == "auto":
            return math.ceil(d_model / 16)
        return self.size(key)

    def must(self, key: str, wanted: Any, what: str) -> None:
        """Raise UserError if the config has another value than the one that we can compute."""
        if self.values.get(key, wanted) != wanted:
            raise self.refuse(key, f"{what} is not supported")


def describe(config: dict[str, Any], file: Path) -> Description:
    """Read a config.json of either layout.

    Args:
        config: its content.
        file: its path, for messages.

    Raises:
        UserError: it describes another architecture, or a variant that we cannot compute.
    """
    kind = config.get("model_type")
    if kind is not None:
        if kind != "mamba":
            raise UserError(f"{file}: model_type={kind!r}: only Mamba-1 (model_type mamba) is read")
        return _hf(_Values(file, config, _HF_DEFAULTS))
    if "d_model" in config and "n_layer" in config:
        return _original(_Values(file, config, _ORIGINAL_DEFAULTS))
    raise UserError(
        f"{file} describes no Mamba: it has neither model_type (as transformers writes) nor "
        "d_model and n_layer (as the original code does)"
    )


def _hf(values: _Values) -> Description:
    """Read a config.json as transformers writes it."""
    classes = values.values.get("architectures") or ["MambaForCausalLM"]
    if classes != ["MambaForCausalLM"]:
        raise values.refuse("architectures", "only MambaForCausalLM is read")
    values.must("use_bias", False, "a bias of the projections")
    values.must("use_conv_bias", True, "a convolution without bias")
    if values.values.get("hidden_act", "silu") not in ("silu", "swish"):  # two names of one
        raise values.refuse("hidden_act", "another activation than silu is not supported")
    values.must("rms_norm", True, "another norm than RMS")
    values.must("quantization_config", None, "a quantised model")
    d_model, expand = values.size("hidden_size"), values.size("expand")
    if "intermediate_size" in values.values:  # what counts; transformers looks no more at expand
        expand, rest = divmod(values.size("intermediate_size"), d_model)
        if rest or not expand:
            why = f"another than a multiple of hidden_size={d_model} is not supported"
            raise values.refuse("intermediate_size", why)
    settings = _settings(
        d_model=d_model,
        n_layer=values.size("num_hidden_layers", MAX_LAYERS),
        d_state=values.size("state_size"),
        d_conv=values.size("conv_kernel"),
        expand=expand,
        dt_rank=values.rank("time_step_rank", d_model),
        norm_eps=values.number("layer_norm_epsilon"),
        tie_embeddings=values.truth("tie_word_embeddings"),
    )
    ends = numbers(values.values.get(KEY), values.file)
    absent = KEY not in values.values
    eos_id = values.get(KEY) if absent else None
    return Description(Layout.hf, settings, values.size("vocab_size"), eos_id, ends)


def _original(values: _Values) -> Description:
    """Read a config.json as the original code writes it."""
    part = values.values.get("ssm_cfg") or {}
    if not isinstance(part, dict):
        raise values.refuse("ssm_cfg", "must be an object")
    ssm = _Values(values.file, part, _ORIGINAL_SSM_DEFAULTS, "ssm_cfg.")
    if part.get("layer", "Mamba1") != "Mamba1":
        raise ssm.refuse("layer", "only Mamba-1 is read")
    if unknown := sorted(set(part) - _SSM - _TRAINING_ONLY - _PLACE):
        raise ssm.refuse(unknown[0], "no setting of Mamba-1")
    ssm.must("bias", False, "a bias of the projections")
    ssm.must("conv_bias", True, "a convolution without bias")
    values.must("rms_norm", True, "another norm than RMS")
    values.must("d_intermediate", 0, "a model with MLP layers")
    if values.values.get("attn_layer_idx"):
        raise values.refuse("attn_layer_idx", "a model with attention layers is not supported")
    d_model, multiple = values.size("d_model"), values.size("pad_vocab_size_multiple")
    settings = _settings(
        d_model=d_model,
        n_layer=values.size("n_layer", MAX_LAYERS),
        d_state=ssm.size("d_state"),
        d_conv=ssm.size("d_conv"),
        expand=ssm.size("expand"),
        dt_rank=ssm.rank("dt_rank", d_model),
        norm_eps=NORM_EPS,
        tie_embeddings=values.truth("tie_embeddings"),
    )
    rows = math.ceil(values.size("vocab_size") / multiple) * multiple
    ends = numbers(values.values.get(KEY), values.file)
    return Description(Layout.original, settings, rows, None, ends)


def _settings(**sizes: Any) -> ModelSettings:
    """Settings of a stack of Mamba layers; those not in `sizes` do not matter after training."""
    return ModelSettings(
        name="mamba",
        _target_=AUTO,
        pattern="M",
        scan_backend=ScanBackend.auto,
        bidirectional=False,
        params={},
        vocab_size=None,
        pretrained=None,
        **_WITHOUT_EFFECT,
        **sizes,
    )


def config_of(
    layout: Layout, settings: ModelSettings, rows: int, ends: Sequence[int] = ()
) -> dict[str, Any]:
    """Make the config.json of a model of ours, which consists of Mamba layers only.

    Args:
        layout: whose words it uses.
        settings: of the model.
        rows: of its embedding.
        ends: the tokens that end a text.
    """
    dt_rank = _Values(Path(), {"dt_rank": settings.dt_rank}, {}).rank("dt_rank", settings.d_model)
    if layout is Layout.original:
        sizes = {"d_state": settings.d_state, "d_conv": settings.d_conv, "expand": settings.expand}
        return {
            "d_model": settings.d_model,
            "n_layer": settings.n_layer,
            "vocab_size": rows,
            "ssm_cfg": {**sizes, "dt_rank": dt_rank},
            "rms_norm": True,
            "residual_in_fp32": True,
            "fused_add_norm": True,
            "pad_vocab_size_multiple": 1,
            "tie_embeddings": settings.tie_embeddings,
        }
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "torch_dtype": "float32",
        "vocab_size": rows,
        "hidden_size": settings.d_model,
        "num_hidden_layers": settings.n_layer,
        "state_size": settings.d_state,
        "conv_kernel": settings.d_conv,
        "expand": settings.expand,
        "intermediate_size": settings.expand * settings.d_model,
        "time_step_rank": dt_rank,
        "time_step_min": settings.dt_min,
        "time_step_max": settings.dt_max,
        "time_step_floor": settings.dt_init_floor,
        "layer_norm_epsilon": settings.norm_eps,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": True,
        "tie_word_embeddings": settings.tie_embeddings,
        "bos_token_id": None,
        KEY: ends[0] if len(ends) == 1 else list(ends) or None,
        "pad_token_id": None,
    }
