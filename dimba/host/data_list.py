"""Facts of a list of data sets: those of each, and all of them combined."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from dimba.dataset.mixture import keyed, no_row, rows_per_epoch, source_key
from dimba.dataset.summary import SHOWN, DataSummary
from dimba.host.facts import DataFacts
from dimba.spec import Dataset, WeightedDataset

Progress = Callable[[int], None]  # gets the number of rows so far
Look = Callable[[Dataset, Progress], DataFacts]


def look_at_list(datasets: Sequence[WeightedDataset], look: Look, progress: Progress) -> DataFacts:
    """The facts of several data sets; `look` returns those of one."""
    sources: list[DataFacts] = []
    before = 0
    for number, each in enumerate(datasets):
        start = before
        found = look(each, lambda rows, start=start: progress(start + rows))  # type: ignore[misc]
        before += found.summary.rows if found.summary else 0
        sources.append(_under_key(_weighted(found, each.weight), source_key(number)))
    return _combined(sources)


def _weighted(facts: DataFacts, weight: float) -> DataFacts:
    usable = facts.summary.usable if facts.summary else 0
    if facts.problem or not usable or rows_per_epoch(weight, usable):
        return replace(facts, weight=weight)
    problem = f"{facts.reference}: {no_row(usable, weight)}"
    return replace(facts, weight=weight, problem=problem, hint="raise its `weight`, or remove it")


def _under_key(facts: DataFacts, key: str) -> DataFacts:
    return replace(facts, key=key + facts.key.removeprefix("dataset"), hint=keyed(facts.hint, key))


def _combined(sources: Sequence[DataFacts]) -> DataFacts:
    bad = next((each for each in sources if each.problem), None)
    summaries = [each.summary for each in sources if each.summary]
    return DataFacts(
        reference=", ".join(each.reference for each in sources),
        local=all(each.local for each in sources),
        files=_unique(file for each in sources for file in each.files),
        places=_unique(place for each in sources if each.local for place in each.places or (Path(each.reference),)),
        linked_files=tuple(link for each in sources for link in each.linked_files),
        notes=tuple(note for each in sources for note in each.notes),
        problem=bad.problem if bad else "",
        hint=bad.hint if bad else "",
        key=bad.key if bad else "dataset",
        summary=_summed(summaries) if len(summaries) == len(sources) else None,
        sources=tuple(sources),
    )


def _unique(paths: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(paths))


def _summed(summaries: Sequence[DataSummary]) -> DataSummary:
    return DataSummary(
        format=", ".join(dict.fromkeys(each.format for each in summaries)),
        rows=sum(each.rows for each in summaries),
        columns=tuple(dict.fromkeys(name for each in summaries for name in each.columns)),
        first=summaries[0].first,
        unusable=sum(each.unusable for each in summaries),
        skipped=sum(each.skipped for each in summaries),
        bad=tuple(each for summary in summaries for each in summary.bad)[:SHOWN],
        unread=tuple(dict.fromkeys(name for each in summaries for name in each.unread)),
        compares=all(each.compares for each in summaries),
    )
