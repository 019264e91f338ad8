"""The names and shapes in the headers, against those that the architecture always has.

`scripts/tables/weights.py` makes the table from transformers' own classes. What the table does not state is not
refused here: the trainer compares every tensor before it loads one.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dimba.common.checkpoint.files import Checkpoint
from dimba.common.checkpoint.quantization import quantization_of
from dimba.common.checkpoint.refusal import Refusal

_TABLE = Path(__file__).parent / "weights.jsonl"
_COMPLETE = "copy config.json and all weights of one complete checkpoint"
_SHOWN = 3


def weights_refusal(checkpoint: Checkpoint) -> Refusal | None:
    """The refusal of weights that are missing, wrongly named or misshapen; None if the table cannot tell."""
    entry = _entry(str(checkpoint.config.get("model_type") or ""))
    if entry is None or not checkpoint.tensors or "auto_map" in checkpoint.config or quantization_of(checkpoint):
        return None
    family = _Family(entry, checkpoint.config)
    shapes = {family.inner(name): list(tensor["shape"]) for name, tensor in checkpoint.tensors.items()}
    needed = [family.inner(name) for name in family.names()]
    missing = [name for name in needed if name not in shapes and not family.is_tied_copy(name, shapes)]
    if missing:
        found = len(needed) - len(missing)
        return _wrapped(checkpoint, family, needed, found) or _missing(missing, family, shapes)
    return _surplus_layers(family, shapes) or _misshapen(family, shapes)


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
        return self.tied and (name == self.head or (name == self.embedding and self.head in shapes))

    def is_ignored(self, name: str) -> bool:
        """Whether transformers leaves the tensor out on purpose."""
        return any(re.search(pattern, f"{self.prefix}{name}") for pattern in self._entry["ignored"])

    def shapes(self) -> Iterator[tuple[str, list[int | None]]]:
        """Each tensor whose sides config.json determines; None for a side that it leaves open."""
        sizes = self._sizes()
        for template, terms in self._entry["shapes"].items():
            sides = [_product(term, sizes) for term in terms]
            for number in range(self.layers) if "#" in template else (0,):
                yield self.inner(template.replace("#", str(number), 1)), sides

    def keys(self, name: str) -> str:
        """The keys of config.json that determine a tensor's shape."""
        template = re.sub(r"\.\d+\.", ".#.", name, count=1)
        terms = self._entry["shapes"].get(template) or self._entry["shapes"].get(f"{self.prefix}{template}") or []
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


def _are_numbers(*values: Any) -> bool:
    return all(type(value) is int and value > 0 for value in values)


def _product(term: str, sizes: Mapping[str, int]) -> int | None:
    """The value of a term such as `2*i` or `(a+2*k)*d`; None if a size is not known."""
    total, numbers = 1, re.fullmatch(r"\((\w)\+2\*(\w)\)\*(\w)", term)
    if numbers:
        heads, groups, size = (sizes.get(letter) for letter in numbers.groups())
        return (heads + 2 * groups) * size if heads and groups and size else None
    for factor in term.split("*"):
        value = int(factor) if factor.isdigit() else sizes.get(factor)
        if value is None:
            return None
        total *= value
    return total


def _wrapped(checkpoint: Checkpoint, family: _Family, needed: list[str], present: int) -> Refusal | None:
    """The refusal of a wrapper's prefix, as torch.compile and DDP leave it, without which more names than now fit."""
    for name in (each for each in checkpoint.tensors if each.endswith(family.embedding)):
        prefix = name.removesuffix(family.embedding).removesuffix(family.prefix)
        bare = {family.inner(each.removeprefix(prefix)) for each in checkpoint.tensors if each.startswith(prefix)}
        if prefix and sum(each in bare for each in needed) > max(present, len(needed) // 2):
            return _prefixed(checkpoint, prefix)
    return None


def _prefixed(checkpoint: Checkpoint, prefix: str) -> Refusal:
    name = next(name for name in checkpoint.tensors if name.startswith(prefix))
    problem = (
        f"has the prefix `{prefix}` in front of its weights' names (`{name}`), which transformers does not look for"
    )
    if prefix.startswith("base_model"):
        return Refusal(
            problem, "it holds a model with its adapter: merge them (`merge_and_unload` of peft) and save that"
        )
    files = "for f in glob.glob('*.safetensors')"
    code = f"s({{k.removeprefix('{prefix}'): v for k, v in l(f).items()}}, f, metadata={{'format': 'pt'}})"
    command = f'python -c "import glob; from safetensors.torch import load_file as l, save_file as s; [{code} {files}]"'
    index = (
        ", and correct the names in its index" if (checkpoint.folder / "model.safetensors.index.json").exists() else ""
    )
    return Refusal(problem, f"`cd {checkpoint.folder} && {command}` removes it{index}")


def _missing(missing: list[str], family: _Family, shapes: Mapping[str, Any]) -> Refusal:
    if missing == [family.head] and family.embedding in shapes:
        problem = f"lacks its language model's head (`{family.head}`), which would be random"
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


def _misshapen(family: _Family, shapes: Mapping[str, list[int]]) -> Refusal | None:
    for name, wanted in family.shapes():
        found = shapes.get(name)
        if found is None or (name == family.head and family.tied):
            continue
        if len(found) != len(wanted) or any(side not in (None, is_) for side, is_ in zip(wanted, found, strict=True)):
            sizes = "×".join(map(str, found))
            expected = "×".join("?" if side is None else str(side) for side in wanted)
            problem = f"has `{name}` of {sizes}, and {family.keys(name)} in config.json make it {expected}"
            return Refusal(problem, f"correct config.json, or {_COMPLETE}")
    return None
