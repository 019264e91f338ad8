"""The names and shapes in the headers, against those that the architecture always has.

`scripts/tables/weights.py` makes the table from transformers' own classes. What the table does not state is not
refused here: the trainer compares every tensor before it loads one.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dimba.common.checkpoint.files import Checkpoint, Tensors, unnamed_files_refusal
from dimba.common.checkpoint.quantization import quantization_of
from dimba.common.checkpoint.refusal import Refusal
from dimba.common.checkpoint.wrappers import (
    CAUSAL,
    OTHER_HEAD,
    adapter_name,
    unmerged_refusal,
    without_wrappers,
    wrapped_refusal,
)

_TABLE = Path(__file__).parent / "weights.jsonl"
_COMPLETE = "copy config.json and all weights of one complete checkpoint"
_SHOWN = 3
_OWN = {"auto_map", "transformers_weights"}  # other classes, and other names of files


def weights_refusal(checkpoint: Checkpoint) -> Refusal | None:
    """The refusal of weights that are missing, wrongly named or misshapen; None if the table cannot tell."""
    entry = _entry(str(checkpoint.config.get("model_type") or ""))
    if not checkpoint.tensors or _OWN & checkpoint.config.keys() or quantization_of(checkpoint):
        return None
    if refusal := unnamed_files_refusal(checkpoint.folder):
        return refusal
    if entry is None:
        return None
    if adapter := adapter_name(checkpoint.tensors):
        return unmerged_refusal(adapter)
    family = _Family(entry, checkpoint.config)
    shapes = {family.inner(name): list(tensor["shape"]) for name, tensor in _named(checkpoint, family).items()}
    needed = list(family.names())
    known = {family.inner(each) for each in needed}
    heads = [name for name in shapes if OTHER_HEAD.match(name) and name not in known and not family.is_ignored(name)]
    if heads:
        return Refusal(f"holds another model's head (`{heads[0]}`)", CAUSAL)
    missing = [each for each in needed if family.inner(each) not in shapes and not family.is_tied_copy(each, shapes)]
    if missing:
        found = len(needed) - len(missing)
        return _wrapped(checkpoint, family, needed, found) or _missing(missing, family, shapes)
    return _surplus_layers(family, shapes) or _unknown(family, known, shapes) or _misshapen(family, shapes)


def _entry(model_type: str) -> dict[str, Any] | None:
    """The line of a model type; only that line is parsed."""
    start = f'{{"type": {json.dumps(model_type)}, '
    with _TABLE.open(encoding="utf-8") as lines:
        line = next((line for line in lines if line.startswith(start)), None)
    return json.loads(line) if line else None


class _Family:
    """An entry of the table, under the values of one config.json."""

    def __init__(self, entry: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self._entry = entry
        self._config = config
        self.prefix = f"{entry['prefix']}."
        key, default = entry["layers"]
        self.layers_key = str(key)
        self.layers = int(config.get(key, default) or 0)
        tied = config.get("tie_word_embeddings")
        self.tied = bool(entry["tied"] if tied is None else tied)
        self.head, self.embedding = self.inner(entry["head"]), self.inner(entry["embedding"])
        self.stack = self.inner(entry["stack"])
        self.is_closed = bool(entry.get("closed"))

    def inner(self, name: str) -> str:
        """The name without the prefix of the base model, which a file may lack."""
        return name.removeprefix(self.prefix)

    def names(self) -> Iterator[str]:
        """The names that a complete checkpoint has."""
        yield from self._entry["outside"]
        for number in range(self.layers):
            yield from (name.replace("#", str(number), 1) for name in self._entry["layer"])

    def is_tied_copy(self, name: str, shapes: Mapping[str, Any]) -> bool:
        """Whether the other half of a tied pair stands in for a tensor."""
        name = self.inner(name)
        if name.endswith("decoder.bias"):  # of BERT's and RoBERTa's heads, which have one bias under two names
            return name.replace("decoder.bias", "bias") in shapes
        return self.tied and (name == self.head or (name == self.embedding and self.head in shapes))

    def is_ignored(self, name: str) -> bool:
        """Whether transformers leaves the tensor out on purpose."""
        return any(re.search(pattern, f"{self.prefix}{name}") for pattern in self._entry["ignored"])

    def shapes(self) -> Iterator[tuple[str, list[int | None]]]:
        """Each tensor whose sides config.json determines; None for a side that it leaves open."""
        sizes = self._sizes()
        for template, terms in self._entry["shapes"].items():
            sides = [_value(term, sizes) for term in terms]
            for number in range(self.layers) if "#" in template else (0,):
                yield template.replace("#", str(number), 1), sides

    def keys(self, name: str) -> str:
        """The keys of config.json that determine a tensor's shape."""
        template = re.sub(r"\.\d+\.", ".#.", name, count=1)
        terms = self._entry["shapes"].get(template, [])
        letters = [letter for letter in self._entry["sizes"] if any(letter in term for term in terms)]
        return ", ".join(f"`{self._entry['sizes'][each][0]}`" for each in letters)

    def _sizes(self) -> dict[str, int]:
        found = {}
        for letter, (key, default) in self._entry["sizes"].items():
            value = self._config.get(key)
            found[letter] = default if value is None else value
        if found.get("k") is None:
            found["k"] = found.get("a")
        if found.get("d") is None and _are_numbers(found.get("h"), found.get("a")):
            found["d"] = found["h"] // found["a"]
        return {letter: value for letter, value in found.items() if _are_numbers(value)}


def _named(checkpoint: Checkpoint, family: _Family) -> Tensors:
    """The tensors, without a prefix of the base model that all names have once too often: transformers ignores it."""
    tensors = checkpoint.tensors
    if f"{family.prefix}{family.prefix}{family.embedding}" not in tensors:
        return tensors
    return {name.removeprefix(family.prefix): tensor for name, tensor in tensors.items()}


def _are_numbers(*values: Any) -> bool:
    return all(type(value) is int and value > 0 for value in values)


def _value(term: str, sizes: Mapping[str, int]) -> int | None:
    """The value of a term such as `2*i`, `e*h+2*n`, `e*h/p` or `(a+2*k)*d`; None if a size is not known."""
    numbers = re.fullmatch(r"\((\w)\+2\*(\w)\)\*(\w)", term)
    if numbers:
        heads, groups, size = (sizes.get(letter) for letter in numbers.groups())
        return (heads + 2 * groups) * size if heads and groups and size else None
    products = [_product(each, sizes) for each in term.split("+")]
    return None if None in products else sum(each or 0 for each in products)


def _product(term: str, sizes: Mapping[str, int]) -> int | None:
    total = 1
    for sign, factor in re.findall(r"([*/]?)(\w+)", term):
        value = int(factor) if factor.isdigit() else sizes.get(factor)
        if value is None:
            return None
        total = total // value if sign == "/" else total * value
    return total


def _wrapped(checkpoint: Checkpoint, family: _Family, needed: list[str], present: int) -> Refusal | None:
    """The refusal of names that fit better without what a wrapper put into them."""
    names, enough = list(checkpoint.tensors), max(present, len(needed) // 2)
    if _count(family, needed, map(without_wrappers, names)) > enough:
        return wrapped_refusal(checkpoint.folder, names)
    for name in (each for each in names if each.endswith(family.embedding)):
        prefix = name.removesuffix(family.embedding).removesuffix(family.prefix)
        bare = (each.removeprefix(prefix) for each in names if each.startswith(prefix))
        if prefix and _count(family, needed, bare) > enough:
            return wrapped_refusal(checkpoint.folder, names, prefix)
    return None


def _count(family: _Family, needed: list[str], names: Iterable[str]) -> int:
    present = {family.inner(name) for name in names}
    return sum(family.inner(name) in present for name in needed)


def _missing(missing: list[str], family: _Family, shapes: Mapping[str, Any]) -> Refusal:
    if [family.inner(name) for name in missing] == [family.head] and family.embedding in shapes:
        problem = f"lacks its language model's head (`{missing[0]}`), which would be random"
        way = "if its head is the embedding, set `tie_word_embeddings: true` in config.json"
        return Refusal(problem, f"{way}; else give the checkpoint with the head, not its base model alone")
    named = ", ".join(f"`{name}`" for name in missing[:_SHOWN])
    more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
    problem = f"lacks weights that its architecture has, which would be random: {named}{more}"
    present = _layer_numbers(family, shapes)
    if present and max(present) + 1 < family.layers:
        problem += f"; it has {max(present) + 1} layers, and `{family.layers_key}` in config.json is {family.layers}"
    return Refusal(problem, _COMPLETE)


def _layer_numbers(family: _Family, shapes: Mapping[str, Any]) -> set[int]:
    start = re.compile(rf"{re.escape(family.stack)}(\d+)\.")
    found = (start.match(name) for name in shapes if not family.is_ignored(name)) if family.stack else ()
    return {int(match[1]) for match in found if match}


def _surplus_layers(family: _Family, shapes: Mapping[str, Any]) -> Refusal | None:
    present = _layer_numbers(family, shapes)
    if not present or len(present) == family.layers or max(present) + 1 <= family.layers:
        return None
    problem = f"has weights of {len(present)} layers, and `{family.layers_key}` in config.json is {family.layers}"
    return Refusal(problem, f"set `{family.layers_key}: {len(present)}` in config.json, or {_COMPLETE}")


def _unknown(family: _Family, known: set[str], shapes: Mapping[str, Any]) -> Refusal | None:
    """The refusal of weights that the architecture lacks, of a family whose every weight the table names."""
    if not family.is_closed:
        return None
    if family.tied and family.head in shapes:
        problem = f"has a head of its own (`{family.head}`), and config.json says `tie_word_embeddings: true`"
        return Refusal(problem, "set `tie_word_embeddings: false`, or remove the head from the weights")
    others = [name for name in shapes if name not in known and name != family.head.replace("weight", "bias")]
    named = ", ".join(f"`{name}`" for name in others[:_SHOWN])
    more = f" and {len(others) - _SHOWN:,} more" if len(others) > _SHOWN else ""
    return Refusal(f"has weights that its architecture lacks: {named}{more}", _COMPLETE) if others else None


def _misshapen(family: _Family, shapes: Mapping[str, list[int]]) -> Refusal | None:
    for name, wanted in family.shapes():
        found = shapes.get(family.inner(name))
        if found is None or (family.inner(name) == family.head and family.tied):
            continue
        if len(found) != len(wanted) or any(side not in (None, is_) for side, is_ in zip(wanted, found, strict=True)):
            sizes = "×".join(map(str, found))
            expected = "×".join("?" if side is None else str(side) for side in wanted)
            problem = f"has `{name}` of {sizes}, and {family.keys(name)} in config.json make it {expected}"
            return Refusal(problem, f"correct config.json, or {_COMPLETE}")
    return None
