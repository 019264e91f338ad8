"""How many token ids a tokenizer knows, against the rows of the embedding."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimba.common.checkpoint.files import Checkpoint
from dimba.common.contract import read_json_object

_EMBEDDING = re.compile(r"(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|tokens_embed|embeddings?)\.weight$")
_OTHER_SENSES = re.compile(r"vision|visual|vit|image|audio|position|token_type|per_layer")
_ROLES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_QUICKLY_PARSED = 4 << 20  # bytes
_UNIGRAM, _SCORED = re.compile(rb'"type":\s*"Unigram"'), re.compile(rb'(?<!\\)(?:\\\\)*"\s*,\s*-?\d[\d.eE+-]*\s*\]')
_VOCABULARIES = ("tokenizer.json", "vocab.json")
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


def absent_tokens(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the names that are in no file of the tokenizer; none where its files are not of JSON."""
    if not names or not any((folder / name).exists() for name in _VOCABULARIES):
        return ()
    more = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")
    content = b"\n".join(_content(folder / name) for name in (*_VOCABULARIES, *more))
    return tuple(name for name in names if not _has_name(content, name))


def embedding_rows(checkpoint: Checkpoint) -> int | None:
    """The rows of the token embedding, from the headers, else `vocab_size`."""
    for name, tensor in checkpoint.tensors.items():
        if _EMBEDDING.search(name) and not _OTHER_SENSES.search(name) and len(tensor["shape"]) == 2:
            return int(tensor["shape"][0])
    size = checkpoint.text_config.get("vocab_size")
    return size if type(size) is int else None


def _tokens(folder: Path) -> int | None:
    file = next((folder / name for name in _VOCABULARIES if (folder / name).exists()), None)
    content = _content(file) if file else b""
    known = [*(_ids_of_tokenizer(content) if file and file.name == "tokenizer.json" else _ids_of_vocabulary(content))]
    if not known:
        return None  # a vocabulary in another format, such as tokenizer.model
    added, config = read_json_object(folder / "added_tokens.json"), read_json_object(folder / "tokenizer_config.json")
    decoder = config.get("added_tokens_decoder")
    decoder = decoder if isinstance(decoder, dict) else {}
    known += _numbers(added.values())
    known += (int(each) for each in decoder if str(each).isdigit())
    listed = {*added, *_contents(decoder.values())}
    special = {*_special_tokens({**read_json_object(folder / "special_tokens_map.json"), **config})}
    new = [name for name in special - listed if not _has_name(content, name)]
    return max(known) + 1 + len(new)


def _special_tokens(config: Mapping[str, Any]) -> Iterator[str]:
    """The tokens that a configuration names by their role: transformers adds those that the vocabulary lacks."""
    yield from _contents(config.get(name) for name in _ROLES)
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(name)
        yield from _contents(more.values() if isinstance(more, dict) else more if isinstance(more, list) else ())


def _contents(tokens: Iterable[Any]) -> Iterator[str]:
    """The texts of tokens that are written as texts or as objects."""
    for token in tokens:
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and text:
            yield text


def _has_name(content: bytes, name: str) -> bool:
    """Whether a JSON file contains a string, written in either way."""
    return any(json.dumps(name, ensure_ascii=escaped).encode() in content for escaped in (False, True))


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _ids_of_vocabulary(content: bytes) -> Iterator[int]:
    with suppress(ValueError, AttributeError):
        yield from _numbers(json.loads(content).values())


def _ids_of_tokenizer(content: bytes) -> Iterator[int]:
    """The highest ids in tokenizer.json; of one with many MB only the ends of its parts are parsed."""
    try:
        found = json.loads(content) if len(content) < _QUICKLY_PARSED else _ends(content) or json.loads(content)
        added, vocabulary = found.get("added_tokens") or [], found["model"].get("vocab")
        yield from _numbers(each.get("id") for each in added)
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    if isinstance(vocabulary, dict):
        yield from _numbers(vocabulary.values())
    elif isinstance(vocabulary, list):
        yield len(vocabulary) - 1


def _ends(content: bytes) -> dict[str, Any] | None:
    """The added tokens and the last id of a vocabulary that is sorted by id, as `tokenizers` writes it."""
    last, opening = _last_id(content), content.find(b"[", content.find(b'"added_tokens"'))
    if last is None or b'"added_tokens"' not in content:
        return None
    listed, _ = json.JSONDecoder().raw_decode(content[opening : opening + _QUICKLY_PARSED].decode("utf-8", "replace"))
    return {"added_tokens": listed, "model": {"vocab": {"": last}}}


def _last_id(content: bytes) -> int | None:
    if _UNIGRAM.search(content):  # a list of (text, score): the place is the id
        return sum(1 for _ in _SCORED.finditer(content, content.rfind(b'"vocab"'))) - 1
    merges = content.rfind(b'"merges"')
    last = _LAST_ID.search(content[max(0, merges - 200) : merges]) if merges > 0 else None
    return int(last[1]) if last else None


def _numbers(values: Any) -> Iterator[int]:
    yield from (each for each in values if type(each) is int)
