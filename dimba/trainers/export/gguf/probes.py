"""Texts over which llama.cpp's tokens are compared with the tokenizer's."""

from collections.abc import Iterable
from typing import Any

from dimba.trainers.export.gguf.engine import LlamaModel

PROBES = (
    "Hello, world! It's a test: I've 3 apples, you'd have 12,345.67 of them (or 1234567890).",
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n",
    "def f(x: int) -> str:\n    if x >= 10:\n\t\treturn f'{x!r}' + \"\\n\"  # a comment\n\n\nclass A:\r\n  pass\r\n",
    "  leading, double  and trailing spaces   ",
    "The quick BROWN fox's jumpsOver theLazyDOG; THEY'RE we'Ve I'M don't DON'T o'clock",
    "Ωμέγα, naïve café, Straße, смешные кошки, 你好,世界。こんにちは 안녕하세요 नमस्ते สวัสดี שלום مرحبا",
    "🚀 👩‍👩‍👧‍👦 🦙🦙 ✅ \u200d \ufeff \u00a0 ½ ² Ⅷ ٣٤٥",
    'https://example.com/a_b-c?d=e&f=%20#g <html><b>x</b></html> {"k": [1, 2.5e-10, null]} $x^2$ ~~~ ``` === ------',
    "0 1 12 123 1234 12345 007 3.14159 1e9 0xFF 50% #1 @user",
    "a",
    " ",
    "\n",
)
_MOST_ADDED = 2_000  # added tokens looked at, a few hundred in the largest vocabularies of today


def first_difference(tokenizer: Any, model: LlamaModel, texts: Iterable[str] = PROBES) -> str:
    """Where llama.cpp's tokens differ from the tokenizer's, in words; empty where they are equal on all texts."""
    if model.vocabulary < len(tokenizer):
        return f"the GGUF has {model.vocabulary:,} tokens, the tokenizer {len(tokenizer):,}"
    for text in texts:
        ours, theirs = tokenizer.encode(text, add_special_tokens=False), model.tokenize(text)
        if ours != theirs:
            return _in_words(tokenizer, text, ours, theirs)
    return ""


def beginning_difference(tokenizer: Any, model: LlamaModel) -> str:
    """Where llama.cpp adds other tokens to the beginning or the end of a text than the tokenizer; empty if nowhere."""
    ours, theirs = tokenizer.encode("Hello"), model.tokenize("Hello", special=True)
    return "" if ours == theirs else _in_words(tokenizer, "Hello", ours, theirs)


def around_added(tokenizer: Any) -> Iterable[str]:
    """Texts around each added token: alone, and where it may swallow spaces."""
    for token in list(tokenizer.get_added_vocab())[:_MOST_ADDED]:
        yield f"a {token} b{token}\n{token}c"


def _in_words(tokenizer: Any, text: str, ours: list[int], theirs: list[int]) -> str:
    pairs = enumerate(zip(ours, theirs, strict=False))
    place = next((at for at, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    start = max(0, place - 1)
    expected, got = (tokenizer.convert_ids_to_tokens(ids[start : place + 3]) for ids in (ours, theirs))
    return f"llama.cpp splits {text[:40]!r} into other tokens: {got} instead of {expected}"
