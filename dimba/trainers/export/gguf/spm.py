"""The vocabulary of a SentencePiece BPE model from tokenizer.json.

llama.cpp's converter reads tokenizer.model, which transformers 5 no longer saves, and without it gives all tokens the
same score. Their scores are the ranks of the merges that make them; the comparison of tokens in `known` proves it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dimba.common.contract import read_json_object

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_BYTES = re.compile(r"<0x[0-9A-F]{2}>")

Vocabulary = tuple[list[bytes], list[float], list[int]]  # tokens, scores, types


def is_sentencepiece(folder: Path) -> bool:
    """Whether the tokenizer in `folder` is BPE as SentencePiece has it: unknown characters become bytes."""
    model = read_json_object(folder / "tokenizer.json").get("model") or {}
    return model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def vocabulary(folder: Path, size: int) -> Vocabulary:
    """`size` tokens with their scores and types, as the converter wants them."""
    tokenizer = read_json_object(folder / "tokenizer.json")
    model = tokenizer["model"]
    scores = _scores(model)
    tokens: Vocabulary = ([f"[PAD{at}]".encode() for at in range(size)], [-1e4] * size, [_UNUSED] * size)
    for text, at in model["vocab"].items():
        _put(tokens, at, text, scores.get(text, -1e4), _type(text, model.get("unk_token")))
    for each in tokenizer.get("added_tokens") or []:
        special = bool(each.get("special"))
        if each["content"] != model.get("unk_token"):
            text = each["content"] if special else each["content"].replace("▁", " ")
            _put(tokens, each["id"], text, -1e3, _CONTROL if special else _USER_DEFINED)
    return tokens


def _scores(model: Mapping[str, Any]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        scores.setdefault(left + right, -float(rank))
    return scores


def _type(text: str, unknown: str | None) -> int:
    if text == unknown:
        return _UNKNOWN
    return _BYTE if _BYTES.fullmatch(text) else _NORMAL


def _put(tokens: Vocabulary, at: int, text: str, score: float, kind: int) -> None:
    texts, scores, types = tokens
    if at < len(texts):
        texts[at], scores[at], types[at] = text.encode(), score, kind
