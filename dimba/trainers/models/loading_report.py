"""What transformers made up or left over while loading: nothing may be made up, and only known leftovers may remain."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimba.common.checkpoint.refusal import Refusal
from dimba.common.checkpoint.wrappers import (
    CAUSAL,
    adapter_name,
    other_head,
    unmerged_refusal,
    without_wrappers,
    wrapped_refusal,
)
from dimba.common.units import quantity

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_COPY = "copy the checkpoint again, config.json and all weight files from the same one"
_PACKED = re.compile(r"\.(qweight|qzeros|g_idx|weight_packed|weight_scale\w*|absmax|quant_map|SCB)$|quant_state")
_LAYER = re.compile(r"\.(?:layers|h|blocks|block|layer)\.(\d+)\.")
# Leftovers that change nothing: buffers of older versions, layers that predict later tokens, other senses, PPO's value.
_HARMLESS = (
    ("buffers of an older version", re.compile(r"inv_freq|masked_bias$|\.attn\.bias$|attention\.bias$|position_ids$")),
    ("layers that predict further tokens", re.compile(r"(^|\.)(mtp|nextn|mtp_\w+)\.|\.(eh_proj|enorm|hnorm)\.")),
    (
        "parts for images or audio",
        re.compile(
            r"(^|\.)(vision|visual|vit|image|audio|speech|video|vq|multi_?modal|mm_|img_|sam_|siglip|perceiver)\w*\."
            r"|(^|\.)(connector|projector|aligner|resampler|embed_vision|embed_audio|talker|token2wav)\b"
        ),
    ),
    ("a value head", re.compile(r"(^|\.)(v_head|value_head)\.")),
    ("scales of a quantised cache", re.compile(r"\.[kv](_proj\.output)?_scale$")),
)


@dataclass(frozen=True)
class LoadingReport:
    """What transformers reports of loading `checkpoint`: names, and (name, shape in the files, shape in the model)."""

    checkpoint: str
    model: PreTrainedModel
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @classmethod
    def of(
        cls, checkpoint: str, model: PreTrainedModel, info: Mapping[str, Any], *, new: Collection[str] = ()
    ) -> LoadingReport:
        """The report from `output_loading_info`; `new` are weights that start untrained by intention."""
        mismatched = sorted((name, tuple(here), tuple(there)) for name, here, there in info["mismatched_keys"])
        return cls(
            checkpoint,
            model,
            missing=tuple(sorted(name for name in info["missing_keys"] if name not in new)),
            unexpected=tuple(sorted(info["unexpected_keys"])),
            mismatched=tuple(each for each in mismatched if each[0] not in new),
        )

    def refusal(self) -> Refusal | None:
        """The reason not to train what was loaded; None if every weight comes from the files."""
        if self.missing:
            return self._missing()
        if self.mismatched:
            return self._mismatched()
        return self._unexpected()

    def note(self) -> str:
        """One line on harmless leftovers; empty if there are none."""
        kinds = {kind: [name for name in self.unexpected if self._leftover(name) == kind] for kind, _ in _HARMLESS}
        found = [f"{kind} (`{names[0]}`{_others(names)})" for kind, names in kinds.items() if names]
        return f"weights in the files that the model does not use: {'; '.join(found)}" if found else ""

    def _leftover(self, name: str) -> str:
        """The kind of a harmless leftover; empty for others."""
        layer = _LAYER.search(name)
        config = self.model.config.get_text_config()
        count = getattr(config, "num_hidden_layers", None)
        extra = getattr(config, "num_nextn_predict_layers", None) or 0
        if layer and count and count <= int(layer[1]) < count + extra:
            return _HARMLESS[1][0]
        return next((kind for kind, pattern in _HARMLESS if pattern.search(name)), "")

    def _missing(self) -> Refusal:
        total = len(self.model.state_dict())
        needs = (
            f"lacks `{self.missing[0]}`{_others(self.missing)} of the {total} weights of {type(self.model).__name__}"
        )
        if adapter := adapter_name(self.unexpected):
            return unmerged_refusal(adapter)
        if wrapped := self._wrapped():
            return wrapped
        if (head := other_head(self.unexpected)) and self._only_head_is_missing():
            return Refusal(f"holds another model's head: it has `{head}` and {needs}", CAUSAL)
        if self._only_head_is_missing():
            tied = "or, if the head is the embedding, set `tie_word_embeddings: true` in config.json"
            return Refusal(f"{needs}, which would be random", f"{CAUSAL}; {tied}")
        stranger = f"; in its files is `{self.unexpected[0]}`" if self.unexpected else ""
        return Refusal(f"{needs}, which would be random{stranger}", _COPY)

    def _mismatched(self) -> Refusal:
        name, here, there = self.mismatched[0]
        others = _others(self.mismatched)
        problem = f"has `{name}`{others} of shape {_shape(here)}, where its config.json asks for {_shape(there)}"
        size = getattr(self.model.config.get_text_config(), "vocab_size", None)
        only_rows = all(one[1:] == two[1:] and two[:1] == (size,) for _, one, two in self.mismatched)
        rows = {one[0] for _, one, _ in self.mismatched if one}
        if only_rows and len(rows) == 1:
            return Refusal(problem, f"set `vocab_size: {here[0]}` in config.json, or {_COPY}")
        return Refusal(problem, _COPY)

    def _unexpected(self) -> Refusal | None:
        strange = [name for name in self.unexpected if not self._leftover(name)]
        if not strange:
            return None
        kind = type(self.model).__name__
        problem = f"has `{strange[0]}`{_others(strange)} in its files, which {kind} of its config.json does not have"
        if adapter := adapter_name(strange):
            return unmerged_refusal(adapter)
        if any(_PACKED.search(name) for name in strange):
            return Refusal(problem, "use the checkpoint that it was quantised from")
        if other_head(strange):
            return Refusal(f"holds another model's head: {problem.removeprefix('has ')}", CAUSAL)
        layers = [int(found[1]) for name in strange if (found := _LAYER.search(name))]
        count = getattr(self.model.config.get_text_config(), "num_hidden_layers", None)
        if count and layers and min(layers) >= count:
            return Refusal(problem, f"set `num_hidden_layers: {max(layers) + 1}` in config.json, or {_COPY}")
        return Refusal(problem, _COPY)

    def _only_head_is_missing(self) -> bool:
        head = self.model.get_output_embeddings()
        weights = {name for name, module in self.model.named_modules() if module is head and head is not None}
        return bool(weights) and all(name.rpartition(".")[0] in weights for name in self.missing)

    def _wrapped(self) -> Refusal | None:
        """The refusal of names that are missing ones with a wrapper's parts, or a prefix, in them."""
        folder = Path(self.checkpoint)
        if {without_wrappers(name) for name in self.unexpected} & {*self.missing}:
            return wrapped_refusal(folder, self.unexpected)
        ends = ((name, missing) for name in self.unexpected for missing in self.missing if name.endswith(f".{missing}"))
        prefix = next((name.removesuffix(missing) for name, missing in ends), "")
        return wrapped_refusal(folder, self.unexpected, prefix) if prefix else None


def unconverted_refusal(names: Collection[str]) -> Refusal:
    """The refusal of files whose weights do not make up these of the model, such as experts in different shapes."""
    return Refusal(f"has weights that do not fit together to `{min(names)}`{_others(names)} of the model", _COPY)


def _others(names: Collection[Any]) -> str:
    return f" and {quantity(len(names) - 1, 'other')}" if len(names) > 1 else ""


def _shape(sizes: Iterable[int]) -> str:
    return "×".join(map(str, sizes)) or "a scalar"
