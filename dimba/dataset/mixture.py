"""A mixture of data sets: the JSON of `--mixture`, and how often an epoch has the rows of each."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dimba.common.errors import BadInput

MOST_WEIGHT = 1000
_TEXTS = ("config", "split", "revision")
_FORM = """write each source as JSON: --mixture '{"path": "a.jsonl", "weight": 2}' '{"name": "owner/data"}'"""


@dataclass(frozen=True, kw_only=True)
class MixtureSource:
    """One data set of a mixture; its rows appear `weight` times in an epoch."""

    dataset: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0

    @classmethod
    def from_text(cls, text: str) -> "MixtureSource":
        """Reads a value of `--mixture`; raises BadInput."""
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if why := _mistake(value):
            raise BadInput(f"`{text}` {why}", _FORM, key="--mixture")
        place = value.pop("path", None) or value.pop("name")
        return cls(dataset=place, **value)


def data_sets(dataset: str, mixture: Sequence[str]) -> list[str]:
    """The paths and Hub ids of a trainer's `--dataset` or `--mixture`; raises BadInput."""
    return [MixtureSource.from_text(text).dataset for text in mixture] or [dataset]


def mixture_text(place: str, *, local: bool, given: Mapping[str, Any]) -> str:
    """The value of `--mixture` for one data set, with the keys that its spec gives."""
    return json.dumps({"path" if local else "name": place, **given}, ensure_ascii=False)


def _mistake(value: Any) -> str:
    if not isinstance(value, dict):
        return "is not a JSON object"
    known = ("path", "name", *_TEXTS, "columns", "weight")
    if unknown := sorted(set(value) - set(known)):
        return f"has the unknown key `{unknown[0]}`; known: {', '.join(known)}"
    places = [value[key] for key in ("path", "name") if key in value]
    if len(places) != 1 or not places[0] or not isinstance(places[0], str):
        return "needs one of `path` and `name`"
    columns, weight = value.get("columns", {}), value.get("weight", 1)
    texts = [value[key] for key in _TEXTS if value.get(key) is not None]
    if not isinstance(columns, dict) or not all(isinstance(each, str) for each in [*columns.values(), *texts]):
        return "has a config, split, revision or column that is not a text"
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    return "" if is_number and 0 < weight <= MOST_WEIGHT else f"needs a weight above 0, {MOST_WEIGHT} at most"


def passes(weight: float, rows: int) -> tuple[int, int]:
    """(how often every row appears in an epoch, how many of the `rows` appear once more)."""
    whole = math.floor(weight)
    return whole, round((weight - whole) * rows)


def rows_per_epoch(weight: float, rows: int) -> int:
    """How many rows an epoch has of a source with this many."""
    whole, more = passes(weight, rows)
    return whole * rows + more


def no_row(rows: int, weight: float) -> str:
    """The problem of a source of which an epoch has no row."""
    return f"an epoch has none of its {rows:,} rows, with the weight {weight:g}"


def joined(texts: Iterable[str]) -> str:
    """Different texts in one."""
    return ", ".join(dict.fromkeys(texts))


def joined_columns(sources: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Our names of columns → the names in all sources."""
    theirs: dict[str, list[str]] = {}
    for source in sources:
        for ours, name in source.items():
            theirs.setdefault(ours, []).append(name)
    return {ours: joined(names) for ours, names in theirs.items()}


def source_key(number: int) -> str:
    """The spec's key of a source of a mixture."""
    return f"dataset[{number}]"


def keyed(text: str, key: str) -> str:
    """A hint that names keys of `dataset`, with those of a source instead."""
    return text.replace("`dataset.", f"`{key}.").replace("`dataset:", f"`{key}:")


@contextmanager
def errors_under(key: str) -> Iterator[None]:
    """Reports an error about `dataset` under the key of one source."""
    try:
        yield
    except BadInput as error:
        if key != "dataset" and not error.key.startswith("--"):
            error.key = key + error.key.removeprefix("dataset")
            error.hint = keyed(error.hint, key)
        raise
