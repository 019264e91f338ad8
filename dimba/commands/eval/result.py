"""The result of an evaluation as values and as JSON, and its verdict in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dimba.commands.eval.statistics import CONFIDENCE, Comparison, Wins


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A figure of two models on the same rows: the means, and how they compare.

    `comparison` is of the rows' differences, positive where the model is better.
    """

    name: str  # loss, or a reward
    model: float
    against: float
    comparison: Comparison
    lower_is_better: bool = False
    wins: Wins | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def difference(self) -> float:
        """Of the means."""
        return self._signed(self.comparison.mean)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the difference."""
        low, high = sorted(self._signed(each) for each in self.comparison.interval)
        return low, high

    def _signed(self, value: float) -> float:
        return -value if self.lower_is_better else value

    def as_json(self) -> dict[str, Any]:
        """The value as JSON."""
        found = {
            "better": self.comparison.better,
            "model": self.model,
            "against": self.against,
            "difference": self.difference,
            "interval": list(self.interval) if self.comparison.has_interval else None,
            "confidence": CONFIDENCE,
            "p": self.comparison.p if self.comparison.has_interval else None,
            "rows": self.comparison.rows,
            "rows_needed": self.comparison.needed,
            **self.more,
        }
        return found | ({"wins": wins_as_json(self.wins)} if self.wins else {})


def wins_as_json(wins: Wins) -> dict[str, Any]:
    """Wins as JSON."""
    counts = {"wins": wins.wins, "ties": wins.ties, "losses": wins.losses, "rate": wins.rate}
    return {**counts, "interval": list(wins.interval), "p": wins.p}


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """The measures of one model; the last is the one that decides."""

    name: str
    folder: str
    measures: tuple[Measure, ...]

    @property
    def deciding(self) -> Measure:
        """The measure that decides."""
        return self.measures[-1]

    def as_json(self) -> dict[str, Any]:
        """The value as JSON."""
        measures = {each.name: each.as_json() for each in self.measures}
        return {
            "name": self.name,
            "folder": self.folder,
            "better": self.deciding.comparison.better,
            "measures": measures,
        }


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Models on the same rows, the best first, beside the one that they are compared with."""

    models: tuple[ModelResult, ...]
    against: str  # in words
    against_folder: str
    source: str  # of the rows
    held_out: bool
    rows: int
    unusable: Mapping[str, str] = field(default_factory=dict)  # why, by the place of the row
    notes: tuple[str, ...] = ()
    time: str = ""  # at which it was made
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The answer in one line."""
        if len(self.models) == 1:
            return verdict(self.models[0].deciding, self.against)
        best = self.models[0]
        return f"{best.name}: {verdict(best.deciding, self.against)}"

    def as_json(self, model: ModelResult | None = None) -> dict[str, Any]:
        """The value as JSON; `better`, `by` and `measures` are those of `model`, without one the best."""
        chosen = model or self.models[0]
        first = chosen.as_json()
        return {
            "better": first["better"],
            "verdict": verdict(chosen.deciding, self.against) if model else self.verdict,
            "by": chosen.deciding.name,
            "model": {"name": first["name"], "folder": first["folder"]},
            "against": {"name": self.against, "folder": self.against_folder},
            "rows": self.rows,
            "rows_needed": chosen.deciding.comparison.needed,
            "source": self.source,
            "time": self.time,
            "held_out": self.held_out,
            "measures": first["measures"],
            "ranking": [each.as_json() for each in self.models],
            "unusable": dict(self.unusable),
            "notes": list(self.notes),
            **self.more,
        }


def verdict(measure: Measure, against: str) -> str:
    """Whether the model is better than `against`, in one line."""
    comparison, rows = measure.comparison, f"{measure.comparison.rows:,} rows"
    figures = f"{measure.name} {measure.model:.4g} against {measure.against:.4g} on {rows}"
    if not comparison.has_interval:
        return f"{figures}: it has no value per row, and so no interval"
    if comparison.better:
        return f"better than {against}: {figures}"
    if comparison.better is False:
        return f"not better than {against}: it is worse, {figures}"
    if not any((comparison.mean, *comparison.interval)):
        return f"not better than {against}: the {measure.name} of all {rows} is the same"
    if comparison.needed is None:
        return f"these {rows} cannot tell whether it is better than {against}, nor would a million"
    return f"these {rows} cannot tell whether it is better than {against}; about {comparison.needed:,} would"


def ranked(models: Sequence[ModelResult]) -> tuple[ModelResult, ...]:
    """The models by the mean of the measure that decides, the best first."""
    return tuple(sorted(models, key=lambda each: -each.deciding.comparison.mean))
