"""The adapter merged into its base, matrix by matrix in float32, and the weights rounded once to the chosen type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from dimba.common.errors import BadInput, RunFailed
from dimba.trainers.export.agreement import Progress
from dimba.trainers.models.merged import merged_weights
from dimba.trainers.models.precision import Precision, base_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

State = dict[str, torch.Tensor]
AUTO = "auto"
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_OTHER_TYPE = "give `--dtype bfloat16` or `--dtype float32`"


def export_precision(name: str, base: str) -> Precision:
    """The precision of an export: `auto` that of the base's files; matrices that they keep in float32 stay in it."""
    stored = base_precision(base)
    if name == AUTO:
        return stored if stored.usual in TYPES.values() else Precision()
    chosen = TYPES[name]
    kept = {key: each for key, each in stored.by_name.items() if each == torch.float32 and chosen != torch.float32}
    return Precision(chosen, kept)


def plain(model: Any) -> PreTrainedModel:
    """The model without peft's wrapper."""
    found: PreTrainedModel = model.get_base_model() if hasattr(model, "peft_config") else model
    return found


def require_mergeable(model: Any) -> None:
    """Raises BadInput for an adapter that is no change of the base's weights, such as trained prompts."""
    for config in getattr(model, "peft_config", {}).values():
        if config.is_prompt_learning:
            cause = f"an adapter of the kind {config.peft_type.value} changes no weights of its base"
            raise BadInput(cause, "use the adapter itself, with peft", key="--merged")


def merged_state(model: Any, precision: Precision, progress: Progress) -> State:
    """The merged weights on the CPU under the names of the plain model, tied ones once.

    Raises:
        BadInput: a value is beyond the range of the type.
        RunFailed: a value is no number.
    """
    total = len(plain(model).state_dict())
    state: State = {}
    for number, (name, value) in enumerate(merged_weights(model, exact=True)):
        progress("merging", min(number, total), total)
        state[name] = _rounded(name, value, precision)
    progress("merging", total, total)
    return _without_ties(model, state)


def _rounded(name: str, value: torch.Tensor, precision: Precision) -> torch.Tensor:
    if not value.is_floating_point():
        return value.detach().cpu()
    wanted = precision.of(name, value)
    if value.numel() and not value.sum(dtype=torch.float32).isfinite() and not value.isfinite().all():
        raise RunFailed(f"`{name}` has values that are no numbers once it is merged", "train again, or export the base")
    if wanted == torch.float16 and value.numel() and (most := float(value.abs().max())) > torch.finfo(wanted).max:
        raise BadInput(f"`{name}` reaches {most:,.0f}, and float16 ends at 65,504", _OTHER_TYPE, key="--dtype")
    return value.detach().to("cpu", wanted)


def _without_ties(model: Any, state: State) -> State:
    """The state with a tied matrix once; of a pair that an adapter has made different, the tie is undone."""
    own = plain(model)
    for name, source in dict(getattr(own, "all_tied_weights_keys", None) or {}).items():
        if name not in state or source not in state:
            continue
        if torch.equal(state[name], state[source]):
            del state[name]
        else:
            _untie(own)
    return state


def _untie(model: PreTrainedModel) -> None:
    for config in (model.config, model.config.get_text_config()):
        if getattr(config, "tie_word_embeddings", None) is not None:
            config.tie_word_embeddings = False


def base_weights(model: Any) -> Mapping[str, torch.Tensor]:
    """The values before training of the matrices that an adapter changes, by their names in the plain model."""
    return {
        name.replace(".base_layer", "").replace(".original_module", "").replace(".token_adapter", ""): value.detach()
        for name, value in plain(model).named_parameters()
        if ".base_layer." in name or ".original_module." in name
    }
