"""Differences between the figures of two runs, beside what such figures vary by. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from dimba.jobs.recipes.difference import FIGURES, Difference


def compare_figures(this: Mapping[str, Any], that: Mapping[str, Any]) -> Iterator[Difference]:
    """The figures that both have and that differ."""
    for name in that:
        here, there = this.get(name), that[name]
        if here is None or here == there:
            continue
        if name == "eval":
            yield from _measures(here, there)
        elif isinstance(here, Mapping) and isinstance(there, Mapping):
            yield from _spreads(name, here, there)
        else:
            yield Difference(FIGURES, name, _shown(here), _shown(there), note=_change(here, there))


def _spreads(name: str, this: Mapping[str, Any], that: Mapping[str, Any]) -> Iterator[Difference]:
    """A metric of training steps: the mean of the last ones, and whether it is within their spread."""
    here, there, spread = this.get("mean"), that.get("mean"), that.get("deviation")
    if not all(isinstance(each, int | float) for each in (here, there, spread)):
        return
    inside = "within" if abs(here - there) <= spread else "outside"  # type: ignore[operator]
    note = f"{_change(here, there)}, {inside} the ±{spread:.2g} by which these steps vary"
    label = f"{name}, mean of the last {that.get('steps')} steps"
    yield Difference(FIGURES, label, _shown(here), _shown(there), note=note)


def _measures(this: Any, that: Any) -> Iterator[Difference]:
    """What `dimba eval` measured of the two models."""
    if not isinstance(this, Mapping) or not isinstance(that, Mapping):
        return
    for name, there in that.items():
        here = this.get(name)
        if isinstance(here, Mapping) and isinstance(there, Mapping) and here.get("model") != there.get("model"):
            ours, theirs = here.get("model"), there.get("model")
            yield Difference(FIGURES, f"eval {name}", _shown(ours), _shown(theirs), note=_change(ours, theirs))
        elif name == "better" and here != there:
            yield Difference(FIGURES, "eval better", _shown(here), _shown(there))


def _shown(value: Any) -> str:
    words = {True: "yes", False: "no", None: "unclear"}
    if value is None or isinstance(value, bool):
        return words[value]
    return f"{value:.5g}" if isinstance(value, int | float) else str(value)


def _change(this: Any, that: Any) -> str:
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (this, that))
    return f"{this - that:+.2g}" if numbers else ""
