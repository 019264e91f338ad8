"""The ways to split text before byte-level BPE that llama.cpp has a name for, recognised by their definition."""

from pathlib import Path
from typing import Any

from dimba.common.contract import read_json_object

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + "+{end}|" + r"[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER + "*{end}"
)
_CASED_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES

_GPT2, _BYTES, _DIGITS = "byte level, with its own expression", "byte level", "digits apart"
LLAMA_3 = _WORDS + r"|\p{N}{1,3}" + _OTHERS
QWEN_2 = _WORDS + r"|\p{N}" + _OTHERS
QWEN_3_5 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _SPACES
GPT_4O = _CASED.replace("{end}", _CONTRACTIONS + "?") + r"|\p{N}{1,3}" + _CASED_OTHERS
TEKKEN = _CASED.replace("{end}", "") + r"|\p{N}" + _CASED_OTHERS

# (steps, whether a word that is a token is taken without merging) -> llama.cpp's name
_NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((_DIGITS, _GPT2), False): "smollm",
    ((LLAMA_3, _BYTES), True): "llama-bpe",
    ((QWEN_2, _BYTES), False): "qwen2",
    ((QWEN_3_5, _BYTES), False): "qwen35",
    ((GPT_4O, _BYTES), False): "gpt-4o",
    ((TEKKEN, _BYTES), True): "tekken",
}


def pre_tokenizer(folder: Path) -> str:
    """llama.cpp's name for how the tokenizer in `folder` splits text; empty for a way that has none here."""
    tokenizer = read_json_object(folder / "tokenizer.json")
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        return ""
    steps = _steps(tokenizer.get("pre_tokenizer") or {})
    return _NAMES.get((steps, bool(model.get("ignore_merges"))), "")


def _steps(value: dict[str, Any]) -> tuple[str, ...]:
    if value.get("type") == "Sequence":
        return tuple(step for each in value.get("pretokenizers") or [] for step in _steps(each))
    return (_step(value),)


def _step(value: dict[str, Any]) -> str:
    match value:
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return _GPT2 if value.get("use_regex", True) else _BYTES
        case {"type": "Digits", "individual_digits": True}:
            return _DIGITS
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"}:
            return pattern
    return "unknown"
