"""Writes dimba/common/checkpoint/families.json: what `AutoModelForCausalLM` makes of every model type.

    python scripts/tables/families.py

The table comes from the mappings of the installed transformers. An entry has these keys where they apply:

causal:  the class that AutoModelForCausalLM makes
masked:  the family has masked language models
decoder: its attention is causal only with `is_decoder: true`
seq2seq: the family has encoder-decoders
sees:    the other kinds of input
whole:   `causal` has the other parts too
needs:   packages that `causal` needs and dimba does not install
fails:   transformers cannot make `causal` from the family's own configuration
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto import modeling_auto as auto

FILE = Path(__file__).parents[2] / "dimba" / "common" / "checkpoint" / "families.json"
_SENSES = {"vision": "images", "vq": "images", "audio": "audio", "vision_model": "images", "audio_encoder": "audio"}


def families() -> dict[str, dict[str, Any]]:
    """The entry of each model type."""
    return {kind: dict(_entry(kind)) for kind in sorted(CONFIG_MAPPING.keys())}


def _entry(kind: str) -> Iterator[tuple[str, Any]]:
    causal = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    sees = sorted(_senses(kind))
    if causal:
        yield "causal", causal
    if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        yield "masked", True
    if kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        yield "seq2seq", True
    if causal and not sees and _has_decoder_switch(kind):
        yield "decoder", True
    if sees:
        yield "sees", sees
        yield from _text_part(kind) if causal else ()


def _has_decoder_switch(kind: str) -> bool:
    """Whether `is_decoder` decides about the attention, as in encoders; GPT-NeoX has the key and ignores it."""
    return hasattr(CONFIG_MAPPING[kind], "is_decoder") and not kind.startswith("gpt_neox")


def _senses(kind: str) -> set[str]:
    parts = getattr(CONFIG_MAPPING[kind], "sub_configs", {})
    found = {_SENSES[name.removesuffix("_config")] for name in parts if name.removesuffix("_config") in _SENSES}
    if kind in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        found.add("images")
    return found


def _text_part(kind: str) -> Iterator[tuple[str, Any]]:
    """Whether a multimodal causal class has its other parts too; nothing for a class of text alone."""
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(_small(kind))
    except ImportError as error:
        yield "needs", re.findall(r"pip install (\S+?)`", str(error))
        return
    except AttributeError:  # its own default configuration fails: a part of an audio model, never saved alone
        yield "fails", True
        return
    if type(model.config) is not CONFIG_MAPPING[kind]:
        return
    yield "whole", True


def _small(kind: str) -> Any:
    config = CONFIG_MAPPING[kind]()
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        for name in ("num_hidden_layers", "depth", "encoder_layers"):
            if isinstance(getattr(part, name, None), int):
                setattr(part, name, min(2, getattr(part, name)))
    return config


if __name__ == "__main__":
    lines = [f"{json.dumps(kind)}: {json.dumps(entry)}" for kind, entry in families().items()]
    FILE.write_text("{\n" + ",\n".join([f'"transformers": "{transformers.__version__}"', *lines]) + "\n}\n", "utf-8")
