"""The converter's own list of byte-level BPE tokenizers: by a hash over the tokens of one text."""

import ast
import re
from functools import cache
from hashlib import sha256
from typing import Any

from dimba.trainers.export.gguf.library import converter

_ENTRY = re.compile(r'if chkhsh == "([0-9a-f]{64})":\n(?:\s*#[^\n]*\n)*\s*res = "([^"]+)"')


def named_by_hash(tokenizer: Any) -> str:
    """The converter's name for this tokenizer's way to split text; empty if it knows none."""
    text, names = _list()
    return names.get(sha256(str(tokenizer.encode(text)).encode()).hexdigest(), "")


@cache
def _list() -> tuple[str, dict[str, str]]:
    source = (converter() / "conversion" / "base.py").read_text(encoding="utf-8")
    line = re.search(r"^\s+chktxt = ('.*')$", source, re.MULTILINE)
    assert line, "the pinned converter has it"
    return str(ast.literal_eval(line[1])), dict(_ENTRY.findall(source))
