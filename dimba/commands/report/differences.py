"""The keys in which the specs of several runs differ."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dimba.commands.report.gather import RunFacts, masked

_ABSENT = "–"
_LAST = ("name", "output_dir")  # they differ between any two runs


def spec_differences(runs: Sequence[RunFacts]) -> list[tuple[str, tuple[str, ...]]]:
    """(key, value per run) of every key whose values differ, defaults included; a spec that is unreadable has none."""
    flat = [dict(_flat(run.spec.model_dump(mode="json"))) if run.spec else {} for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    found = [(key, tuple(values.get(key, _ABSENT) for values in flat)) for key in keys]
    differing = [(key, values) for key, values in found if len(set(values)) > 1]
    return sorted(differing, key=lambda each: each[0] in _LAST)


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, masked(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
