"""What kind of model a configuration describes, decided by `architectures`, `model_type` and a table of families.

`scripts/tables/families.py` makes the table from transformers' own mappings.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from dimba.common.checkpoint.refusal import Refusal

_LANGUAGE_MODEL = "give a causal language model, whose `architectures` in config.json end in ForCausalLM"
# Class names by their head; the first match counts.
_HEADS = (
    (re.compile(r"Reward(Model)?$|RewardModel|ForScore"), "a reward model"),
    (re.compile(r"For(Sequence|Text|Audio|Image|Video)?Classification"), "a classifier"),
    (re.compile(r"ForTokenClassification"), "a token classifier"),
    (re.compile(r"QuestionAnswering"), "a question-answering model"),
    (re.compile(r"ForMultipleChoice|ForNextSentencePrediction"), "a classifier"),
    (re.compile(r"ForMaskedLM$|MaskedLM|ForPreTraining$"), "an encoder with a masked language model's head"),
    (re.compile(r"ForCTC$|ForSpeechSeq2Seq|ForRNNT$|ForTDT$"), "a speech recogniser"),
    (
        re.compile(r"TextEncod|(Encoder|Embed(ding)?|Bi)Model$|ForTextEncoding|SentenceTransformer|ForRetrieval"),
        "an encoder",
    ),
)
_WHOLE_HEADS = ("ForPreTraining",)  # also the name of multimodal and of causal classes
_NO_TYPE = "config.json has no `model_type`, without which transformers does not load it"
_NOT_CAUSAL = ("xlnet", "xlm", "flaubert", "cpmant")  # they have a language model's head, and attend in both directions


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The kind of a checkpoint; with a `refusal` no trainer of dimba can train it."""

    architecture: str = ""
    sees: tuple[str, ...] = ()  # the other kinds of input of a multimodal model: images, audio
    doubt: str = ""  # why transformers may not load it
    library_type: str = ""  # the model type that transformers itself must know; none for code of the checkpoint's own
    text_alone: bool = False  # only the text part of a multimodal model is loaded, and saved
    refusal: Refusal | None = None


@cache
def _table() -> dict[str, Any]:
    return dict(json.loads((Path(__file__).parent / "families.json").read_text(encoding="utf-8")))


def tested_release() -> str:
    """The release of transformers that the table describes, and that the image has."""
    return str(_table()["transformers"])


@cache
def families() -> dict[str, dict[str, Any]]:
    """The table: model type → what transformers makes of it."""
    return {kind: entry for kind, entry in _table().items() if isinstance(entry, dict)}


def kind_of(config: Mapping[str, Any]) -> Kind:
    """The kind of the model that config.json describes; families that the table lacks are not refused."""
    names = config.get("architectures")
    names = [str(name) for name in names] if isinstance(names, list) else []
    name, model_type = next(iter(names), ""), str(config.get("model_type") or "")
    family = families().get(model_type)
    mapped = config.get("auto_map")
    has_own_class = isinstance(mapped, Mapping) and "AutoModelForCausalLM" in mapped
    found = _multimodal(name, family or {})
    if not mapped:
        found = replace(found, doubt="" if model_type else _NO_TYPE, library_type=model_type)
    what = _head(name, family or {}) or _two_way(config, name, family or {})
    if what is None and family is not None and not has_own_class:
        what = _without_causal_class(model_type, name, family)
    return found if what is None else Kind(architecture=name, sees=found.sees, refusal=_refusal(what, name, model_type))


def _multimodal(name: str, family: Mapping[str, Any]) -> Kind:
    sees = tuple(family.get("sees", ()))
    return Kind(
        architecture=name,
        sees=sees,
        text_alone=bool(sees) and not family.get("whole"),
    )


def _head(name: str, family: Mapping[str, Any]) -> str | None:
    if name == family.get("causal") or (name.endswith(_WHOLE_HEADS) and not family.get("masked")):
        return None
    return next((what for pattern, what in _HEADS if pattern.search(name)), None)


def _two_way(config: Mapping[str, Any], name: str, family: Mapping[str, Any]) -> str | None:
    """The kind of a model whose tokens attend to later ones, for which next-token loss is meaningless."""
    is_causal_class = name == family.get("causal") and name != ""
    if family.get("seq2seq") and not family.get("sees"):
        return None if is_causal_class and config.get("is_encoder_decoder") is not True else "an encoder-decoder"
    if config.get("model_type") in _NOT_CAUSAL:
        return "a model whose tokens attend to later ones"
    if family.get("decoder") and config.get("is_decoder") is not True:
        return "an encoder (`is_decoder` is not true)" if family.get("masked") else "a part of an encoder-decoder"
    text = config.get("text_config")
    marks = [part.get("use_bidirectional_attention") for part in (config, text) if isinstance(part, Mapping)]
    return "an encoder (`use_bidirectional_attention` is set)" if True in marks or "all" in marks else None


def _without_causal_class(model_type: str, name: str, family: Mapping[str, Any]) -> str | None:
    if missing := family.get("needs"):
        return (
            f"a model of {_listed(family['sees'])} and text that needs {_listed(missing)}, which dimba does not install"
        )
    if family.get("causal") and not family.get("fails"):
        is_decoder_alone = not name.endswith("ForConditionalGeneration") or family.get("sees")
        return None if is_decoder_alone else "an encoder-decoder"
    if family.get("seq2seq"):
        return "an encoder-decoder"
    if family.get("masked"):
        return "an encoder"
    if family.get("sees"):
        return (
            f"a model of {_listed(family['sees'])} and text whose text part transformers does not load by itself: "
            f"AutoModelForCausalLM does not know `{model_type}`"
        )
    return f"a model that AutoModelForCausalLM of transformers does not know (`model_type: {model_type}`)"


def _refusal(what: str, name: str, model_type: str) -> Refusal:
    named = f" ({name})" if name else "" if model_type in what else f" ({model_type})"
    if "text part" in what or "AutoModelForCausalLM" in what or "which dimba" in what:
        return Refusal(f"is {what}{named}", _LANGUAGE_MODEL)
    return Refusal(f"is {what}{named}, not a causal language model", _LANGUAGE_MODEL)


def _listed(names: list[str]) -> str:
    return " and ".join(names)
