"""One conversion, from the original's file to a folder in Hugging Face format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dimba.common.errors import BadInput
from dimba.models.dimba import DimbaConfig, DimbaForMaskedLM
from dimba.models.dimba.modeling import sinusoids
from dimba.trainers.convert.layout import (
    EMBEDDING,
    HEAD,
    HEAD_BIAS,
    HEAD_COPY,
    SCALE,
    WAVES,
    is_left_out,
    renamed,
    require_masked,
    sizes_of,
    unwrapped,
)
from dimba.trainers.convert.reading import read_checkpoint
from dimba.trainers.convert.tokens import fitting_tokenizer
from dimba.trainers.models.saving import apply_umask

_TIMES, _PROMPT = "timestep_embed.mlp.0.weight", "null_cond"
_OTHER = "give the checkpoint as the original's training saved it"
_NAMED, _SAMPLE = 100, 3  # names in a message


def convert(file: Path, target: Path, tokenizer: Path | None) -> dict[str, Any]:
    """Write `file` into the empty folder `target`; returns what it is.

    Raises:
        BadInput: the file is no masked checkpoint of the published layout, or the tokenizer does not fit it.
    """
    try:
        model, left_out = _converted(read_checkpoint(file))
    except BadInput as error:
        raise BadInput(error.cause, error.hint, file=file) from error
    found = fitting_tokenizer(tokenizer, model.config) if tokenizer else None
    model.save_pretrained(target)
    if found:
        found.save_pretrained(target)
    apply_umask(target)
    return {
        "parameters": sum(each.numel() for each in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "tied": model.config.tie_word_embeddings,
        "mask_token_id": model.config.mask_token_id,
        "tokenizer": bool(found),
        "left_out": left_out,
    }


def _converted(checkpoint: Mapping[str, Any]) -> tuple[DimbaForMaskedLM, list[str]]:
    require_masked(checkpoint)
    weights = _unwrapped(checkpoint["model_state_dict"])
    sizes = sizes_of(checkpoint["config"], checkpoint["mask_id"])
    _check_head(weights, tied=sizes["tie_word_embeddings"])
    names = dict(renamed(sizes["num_layers"], tied=sizes["tie_word_embeddings"]))
    _check_names(weights, names)
    config = _config(sizes, weights, checkpoint["config"])
    _check_waves(weights, config)
    model = _assigned({ours: weights[name] for name, ours in names.items()}, config, names)
    return model, sorted(name for name in weights if is_left_out(name))


def _unwrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {unwrapped(name): weight for name, weight in weights.items()}
    if len(found) < len(weights):
        twice = sorted(name for name in found if sum(unwrapped(each) == name for each in weights) > 1)
        raise BadInput(f"has {_listed(twice)} with and without a wrapper's name", _OTHER)
    return found


def _check_head(weights: Mapping[str, Tensor], *, tied: bool) -> None:
    """Raises BadInput for a head that is not what `use_weight_tying` says."""
    copy, own = weights.get(HEAD_COPY), [name for name in (HEAD, HEAD_BIAS) if name in weights]
    if tied and own:
        raise BadInput(f"says `use_weight_tying: True`, and has a head of its own (`{own[0]}`)", _OTHER)
    if tied and copy is not None and not torch.equal(copy, weights.get(EMBEDDING, copy[:0])):
        raise BadInput(f"says `use_weight_tying: True`, and `{HEAD_COPY}` is not its embedding", _OTHER)
    if not tied and not own:
        raise BadInput("says `use_weight_tying: False`, and has no head of its own", _OTHER)


def _check_names(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    missing = [name for name in names if name not in weights]
    surplus = [name for name in weights if name not in names and not is_left_out(name)]
    if len(missing) == len(names):
        theirs, ours = _listed(surplus[:_SAMPLE]), _listed(missing[:_SAMPLE])
        raise BadInput(f"has no tensor with a name of the published layout: {theirs} … in place of {ours} …", _OTHER)
    if missing or surplus:
        parts = [f"lacks {_listed(missing)}"] * bool(missing) + [f"has {_listed(surplus)} too many"] * bool(surplus)
        raise BadInput(", and ".join(parts), _OTHER)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(f"`{name}`" for name in names[:_NAMED]) + more


def _config(sizes: Mapping[str, Any], weights: Mapping[str, Tensor], original: Mapping[str, Any]) -> DimbaConfig:
    """The configuration, with the sizes that only the weights tell."""
    heads = weights["denoiser.blocks.0.mamba_fwd.dt_bias"].numel()
    inner = sizes["d_model"] * sizes["expand"]
    if not heads or inner % heads:
        raise BadInput(f"has {heads} heads in a mixer, which do not divide d_model x expand = {inner}", _OTHER)
    times = weights[_TIMES]
    if times.dim() != 2 or times.shape[1] % 2:
        raise BadInput(f"has `{_TIMES}` of {_shape(times)}, which is no matrix of sinusoids", _OTHER)
    widths = {"condition_dim": weights[_PROMPT].numel(), "time_width": times.shape[0], "time_dim": times.shape[1]}
    return DimbaConfig(**sizes, **widths, headdim=inner // heads, embedding_scale=_scale(weights, original))


def _scale(weights: Mapping[str, Tensor], original: Mapping[str, Any]) -> float:
    """What embeddings are multiplied by: a buffer, in earlier releases a key of the configuration."""
    value = weights[SCALE].item() if SCALE in weights and weights[SCALE].numel() == 1 else original.get("latent_scale")
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise BadInput(f"lacks `{SCALE}`, a number above 0, by which embeddings are multiplied", _OTHER)
    return float(value)


def _check_waves(weights: Mapping[str, Tensor], config: DimbaConfig) -> None:
    """Raises BadInput if the stored sinusoids of t are not those that the model computes, up to their rounding."""
    stored = weights.get(WAVES)
    if stored is None:
        return
    wanted = sinusoids(torch.arange(config.time_steps, dtype=torch.float32), config.time_dim)
    if stored.shape != wanted.shape or not torch.allclose(stored.float(), wanted, atol=4e-3):
        what = f"has `{WAVES}` of {_shape(stored)}"
        raise BadInput(f"{what} that are not the sinusoids of {config.time_steps} steps of t", _OTHER)


def _assigned(weights: dict[str, Tensor], config: DimbaConfig, names: Mapping[str, str]) -> DimbaForMaskedLM:
    with torch.device("meta"):
        model = DimbaForMaskedLM(config)
    wanted, theirs = dict(model.named_parameters()), {ours: name for name, ours in names.items()}
    for name, weight in weights.items():
        if weight.shape != wanted[name].shape:
            made = _shape(wanted[name])
            raise BadInput(f"has `{theirs[name]}` of {_shape(weight)}, and its `config` makes it {made}", _OTHER)
        if not weight.is_floating_point() or not bool(weight.isfinite().all()):
            raise BadInput(f"has values in `{theirs[name]}` that are no finite numbers", _OTHER)
    kinds = {each.dtype for each in weights.values()}
    dtype = kinds.pop() if len(kinds) == 1 else torch.float32
    model.load_state_dict({name: each.to(dtype) for name, each in weights.items()}, strict=False, assign=True)
    model.tie_weights()
    model.config.dtype = dtype
    return model


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"
