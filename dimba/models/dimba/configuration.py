"""The configuration of DIMBA; its defaults are those of the published nano model."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Mamba2Config, PreTrainedConfig

_MIXER_NORM_EPS = 1e-5  # of the gated norm inside a Mamba-2 mixer


@strict
class DimbaConfig(PreTrainedConfig):
    r"""The sizes of a DIMBA model.

    `d_model * expand / headdim` is the number of heads of a mixer. `mask_token_id` is the last token by default.
    `condition_dim` is the width of what the adaptive norms get; `time_dim` that of the sinusoids of t, which is
    rounded to one of `time_steps` levels, and `time_width` that of the layers behind them. Embeddings are multiplied
    by `embedding_scale` before the first block, and the output of the last block is divided by it.
    """

    model_type = "dimba"
    attribute_map = {
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "intermediate_size": "ffn_dim",
        "head_dim": "headdim",
        "state_size": "d_state",
        "conv_kernel": "d_conv",
    }

    vocab_size: int = 49153
    d_model: int = 576
    num_layers: int = 30
    d_state: int = 64
    d_conv: int = 4
    expand: int = 2
    headdim: int = 64
    ffn_dim: int = 1536
    condition_dim: int = 512
    time_dim: int = 128
    time_width: int = 512
    time_steps: int = 1000
    embedding_scale: float = 50.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    mask_token_id: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Fills in the mask token."""
        if self.mask_token_id is None:
            self.mask_token_id = self.vocab_size - 1
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Raises ValueError for sizes that make no model; `strict` calls it."""
        sizes = ("vocab_size", "d_model", "num_layers", "d_state", "d_conv", "expand", "headdim", "ffn_dim")
        for name in (*sizes, "condition_dim", "time_dim", "time_width", "time_steps", "embedding_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not greater than 0")
        if self.d_model * self.expand % self.headdim:
            inner = f"d_model {self.d_model} x expand {self.expand}"
            raise ValueError(f"headdim: {self.headdim} does not divide {inner} = {self.d_model * self.expand}")
        if self.time_dim % 2:
            raise ValueError(f"time_dim: {self.time_dim} is not even")
        if not 0 <= (self.mask_token_id or 0) < self.vocab_size:
            raise ValueError(f"mask_token_id: {self.mask_token_id} is not below vocab_size {self.vocab_size}")

    def mixer(self) -> Mamba2Config:
        """The configuration of one Mamba-2 mixer, in transformers' words."""
        return Mamba2Config(
            hidden_size=self.d_model,
            num_hidden_layers=self.num_layers,
            state_size=self.d_state,
            conv_kernel=self.d_conv,
            expand=self.expand,
            head_dim=self.headdim,
            num_heads=self.d_model * self.expand // self.headdim,
            n_groups=1,
            layer_norm_epsilon=_MIXER_NORM_EPS,
        )
