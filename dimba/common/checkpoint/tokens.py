"""How many token ids a tokenizer knows, against the rows of the embedding."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimba.common.checkpoint.files import Checkpoint
from dimba.common.contract import read_json_object

_EMBEDDING = re.compile(r"(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|tokens_embed|embeddings?)\.weight$")
_OTHER_SENSES = re.compile(r"vision|visual|vit|image|audio|position|token_type|per_layer")
_QUICKLY_PARSED = 4 << 20  # bytes
_LAST_ID = re.compile(rb":\s*(\d+)\s*\}\s*,?\s*$")


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """The tokens that the tokenizer can produce (its highest id and one), and the rows of the embedding."""

    tokens: int
    rows: int

    @property
    def missing_rows(self) -> int:
        """Rows that tokens lack."""
        return max(0, self.tokens - self.rows)


def count_tokens(checkpoint: Checkpoint) -> TokenCounts | None:
    """Both counts; None where the folder does not tell one of them."""
    rows, tokens = embedding_rows(checkpoint), _tokens(checkpoint.folder)
    return TokenCounts(tokens=tokens, rows=rows) if rows and tokens else None


def embedding_rows(checkpoint: Checkpoint) -> int | None:
    """The rows of the token embedding, from the headers, else `vocab_size`."""
    for name, tensor in checkpoint.tensors.items():
        if _EMBEDDING.search(name) and not _OTHER_SENSES.search(name) and len(tensor["shape"]) == 2:
            return int(tensor["shape"][0])
    size = checkpoint.text_config.get("vocab_size")
    return size if type(size) is int else None


def _tokens(folder: Path) -> int | None:
    known = [*_ids_of_tokenizer(folder / "tokenizer.json")]
    if not known and not (folder / "tokenizer.json").exists():
        known = [*_numbers(read_json_object(folder / "vocab.json").values())]
    if not known:
        return None  # a vocabulary in another format, such as tokenizer.model
    known += _numbers(read_json_object(folder / "added_tokens.json").values())
    added = read_json_object(folder / "tokenizer_config.json").get("added_tokens_decoder")
    known += (int(each) for each in added if str(each).isdigit()) if isinstance(added, dict) else ()
    return max(known) + 1


def _ids_of_tokenizer(file: Path) -> Iterator[int]:
    """The highest ids in tokenizer.json; of one with many MB only the ends of its parts are parsed."""
    try:
        content = file.read_bytes()
        found = json.loads(content) if len(content) < _QUICKLY_PARSED else _ends(content) or json.loads(content)
        added, vocabulary = found.get("added_tokens") or [], found["model"].get("vocab")
        yield from _numbers(each.get("id") for each in added)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if isinstance(vocabulary, dict):
        yield from _numbers(vocabulary.values())
    elif isinstance(vocabulary, list):
        yield len(vocabulary) - 1


def _ends(content: bytes) -> dict[str, Any] | None:
    """The added tokens and the last entry of a vocabulary that is sorted by id, as `tokenizers` writes it."""
    start, merges = content.find(b'"added_tokens"'), content.rfind(b'"merges"')
    last = _LAST_ID.search(content[max(0, merges - 200) : merges]) if merges > 0 else None
    opening = content.find(b"[", start)
    if start < 0 or last is None or opening < 0:
        return None
    listed, _ = json.JSONDecoder().raw_decode(content[opening : opening + _QUICKLY_PARSED].decode("utf-8", "replace"))
    return {"added_tokens": listed, "model": {"vocab": {"": int(last[1])}}}


def _numbers(values: Any) -> Iterator[int]:
    yield from (each for each in values if type(each) is int)
