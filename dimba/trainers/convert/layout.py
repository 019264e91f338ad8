"""What a masked checkpoint of the original holds: its configuration, the names of its tensors, and ours for them.

The names and sizes are those of the published nano model: 287,949,160 parameters, of which masked diffusion does not
use the prompt encoder. Buffers of the continuous kind's noise schedule come along, and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dimba.common.errors import BadInput

EMBEDDING, HEAD, HEAD_BIAS = (
    "token_embed.embedding.weight",
    "output_head.projection.weight",
    "output_head.projection.bias",
)
HEAD_COPY = "output_head.embedding_weight"  # which some releases store of a tied head
SCALE, WAVES = "_latent_scale", "timestep_embed.position_encoding"
_LEFT_OUT = re.compile(r"noise_schedule\.\w+")
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # of torch
_OUTSIDE = {
    EMBEDDING: "model.embed_tokens.weight",
    "null_cond": "model.conditioning.null_condition",
    "timestep_embed.mlp.0.weight": "model.conditioning.dense_in.weight",
    "timestep_embed.mlp.0.bias": "model.conditioning.dense_in.bias",
    "timestep_embed.mlp.2.weight": "model.conditioning.dense_out.weight",
    "timestep_embed.mlp.2.bias": "model.conditioning.dense_out.bias",
    "denoiser.time_proj.weight": "model.conditioning.projection.weight",
    "denoiser.time_proj.bias": "model.conditioning.projection.bias",
    "prompt_encoder.mlp.0.weight": "model.prompt_encoder.weight_in",
    "prompt_encoder.mlp.0.bias": "model.prompt_encoder.bias_in",
    "prompt_encoder.mlp.3.weight": "model.prompt_encoder.weight_out",
    "prompt_encoder.mlp.3.bias": "model.prompt_encoder.bias_out",
}
_MIXER = ("in_proj.weight", "conv1d.weight", "conv1d.bias", "dt_bias", "A_log", "D", "norm.weight", "out_proj.weight")
_BLOCK = {
    "norm.weight": "norm1.weight",
    **{f"mamba_fwd.{name}": f"mixer_forward.{name}" for name in _MIXER},
    **{f"mamba_bwd.{name}": f"mixer_backward.{name}" for name in _MIXER},
    "norm2.weight": "norm2.weight",
    **{f"ffn.{name}_proj.weight": f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")},
}
_MODULATION = "modulation.1."

_SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "d_model",
    "num_denoiser_layers": "num_layers",
    "d_state": "d_state",
    "d_conv": "d_conv",
    "expand": "expand",
}
_MASKED = "give a masked checkpoint of the original: one with `model_state_dict`, `config` and `mask_id`"
_CONTINUOUS = {
    "latent_diffusion": False,
    "use_vae_latent": False,
    "self_conditioning": False,
    "prediction_type": "x0",
}
_ARCHITECTURE = {
    "conditioning_type": "adaln",
    "bidirectional": True,
    "bidir_merge": "sum",
    "block_ffn": True,
    "ffn_type": "swiglu",
    "use_simple_mamba": False,
    "use_head_norm": False,
    "head_type": "linear",
}


def require_masked(checkpoint: Mapping[str, Any]) -> None:
    """Raises BadInput for a checkpoint that is not of the masked kind, or not of this architecture."""
    config = checkpoint["config"]
    found = [f"`{key}: {config[key]}`" for key, value in _CONTINUOUS.items() if config.get(key, value) != value]
    if found:
        what = f"is of the continuous-latent kind ({', '.join(found)})"
        raise BadInput(f"{what}: it denoises vectors, and no token stands for a masked one", _MASKED)
    if "mask_id" not in checkpoint:
        raise BadInput(
            "lacks `mask_id`, the token that stands for a masked one, as the continuous-latent kind", _MASKED
        )
    other = [f"`{key}: {config[key]}`" for key, value in _ARCHITECTURE.items() if config.get(key, value) != value]
    if other:
        wanted = ", ".join(f"{key}: {value}" for key, value in _ARCHITECTURE.items())
        raise BadInput(f"has another architecture ({', '.join(other)})", f"give a checkpoint with {wanted}")


def sizes_of(config: Mapping[str, Any], mask: object) -> dict[str, Any]:
    """Our keys for what the original's configuration states; raises BadInput for keys that lack or make no sense."""
    if missing := [key for key in _SIZES if key not in config]:
        raise BadInput(f"has a `config` without {_listed(missing)}", _MASKED)
    sizes: dict[str, Any] = {ours: _whole(config, key) for key, ours in _SIZES.items()}
    if type(mask) is not int or not 0 <= mask < sizes["vocab_size"]:
        raise BadInput(f"has `mask_id: {mask}`, which is no token of {sizes['vocab_size']:,}", _MASKED)
    wide = config.get("ffn_hidden")
    sizes["ffn_dim"] = 4 * sizes["d_model"] if wide is None else _whole(config, "ffn_hidden")
    sizes["time_steps"] = _whole({"num_diffusion_steps": 1000, **config}, "num_diffusion_steps")
    return {**sizes, "mask_token_id": mask, "tie_word_embeddings": config.get("use_weight_tying", False) is True}


def _whole(config: Mapping[str, Any], key: str) -> int:
    value = config[key]
    if type(value) is not int or value <= 0:
        raise BadInput(f"has `{key}: {value}` in its `config`, which is no whole number above 0", _MASKED)
    return value


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def renamed(layers: int, *, tied: bool) -> Iterator[tuple[str, str]]:
    """(the original's name, ours) of every weight of a complete checkpoint."""
    yield from _OUTSIDE.items()
    for number in range(layers):
        for name, ours in _BLOCK.items():
            yield f"denoiser.blocks.{number}.{name}", f"model.layers.{number}.{ours}"
        for name in ("weight", "bias"):
            ours = f"model.layers.{number}.modulation.{name}"
            yield f"denoiser.conditioning.{number}.{_MODULATION}{name}", ours
    if not tied:
        yield from ((HEAD, "lm_head.weight"), (HEAD_BIAS, "lm_head.bias"))


def unwrapped(name: str) -> str:
    """A tensor's name without what DDP, FSDP and `torch.compile` put around the modules that they wrap."""
    bare = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    return bare.removeprefix("module.")


def is_left_out(name: str) -> bool:
    """Whether a tensor belongs to the layout, and masked diffusion needs nothing of it but what is checked."""
    return name in (SCALE, WAVES, HEAD_COPY) or bool(_LEFT_OUT.fullmatch(name))
