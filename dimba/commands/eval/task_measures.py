"""How two models compare in tasks: document by document, and over the tasks of a group."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dimba.commands.eval.result import Measure
from dimba.commands.eval.statistics import LEAST, compare, count_wins, without_interval
from dimba.commands.eval.tasks import TaskSet
from dimba.common.errors import BadInput
from dimba.common.tasks import NamedTasks, TaskFacts, TaskValues

Found = Mapping[str, TaskValues]
Pairs = list[tuple[float, float]]  # (the value of a document, that of the model it is compared with)


def task_measures(tasks: TaskSet, ours: Found, theirs: Found, models: int) -> list[Measure]:
    """The measures of each name; of a group its tasks first, then all of them together. Raises BadInput.

    Each is compared at the level of its family: 5 % over the models, the names, and the tasks of a group.
    """
    measures: list[Measure] = []
    for each in tasks.named:
        comparisons = models * len(tasks.named)
        if len(each.tasks) > 1:
            within = comparisons * len(each.tasks)
            measures += [_of_task(tasks, task, ours, theirs, within) for task in each.tasks]
            measures += _together(tasks, each, ours, theirs, comparisons)
        else:
            measures.append(_of_task(tasks, each.tasks[0], ours, theirs, comparisons))
    return measures


def task_notes(tasks: TaskSet) -> Iterator[str]:
    """What a reader has to know of the comparisons."""
    for each in tasks.named:
        if not _has_one_metric(tasks, each):
            yield f"the tasks of {each.name} have different metrics, and no figure together"
    for facts in tasks.facts.values():
        if not facts.per_document:
            yield f"{facts.label} of {facts.name} has no value per document, and so no interval"


def _of_task(tasks: TaskSet, name: str, ours: Found, theirs: Found, comparisons: int) -> Measure:
    facts, both = tasks.facts[name], {"model": ours[name], "against": theirs[name]}
    more = {
        "metric": facts.metric,
        "fewshot": facts.fewshot,
        "cut": {who: each.cut for who, each in both.items()},
        "figures": {who: dict(each.figures) for who, each in both.items()},
    }
    if not facts.per_document:
        return _without_documents(facts, both, more)
    pairs = _pairs(tasks, name, ours, theirs)
    if not pairs:
        raise BadInput(f"no document of `{name}` has a value of `{facts.metric}`", "leave it out of --tasks")
    return _measure(f"{name} {facts.label}", facts, pairs, comparisons, more)


def _without_documents(facts: TaskFacts, both: Mapping[str, TaskValues], more: dict[str, Any]) -> Measure:
    found = [_figure(each, facts.metric) for each in both.values()]
    if any(each is None for each in found):
        raise BadInput(f"`{facts.name}` has no figure of `{facts.metric}`", "leave it out of --tasks")
    ours, theirs = (float(each or 0.0) for each in found)
    return Measure(
        name=f"{facts.name} {facts.label}",
        model=ours,
        against=theirs,
        comparison=without_interval(ours - theirs if facts.higher_is_better else theirs - ours, facts.documents),
        lower_is_better=not facts.higher_is_better,
        more=more,
    )


def _figure(values: TaskValues, metric: str) -> float | None:
    return next((each for key, each in values.figures.items() if key.partition(",")[0] == metric), None)


def _pairs(tasks: TaskSet, name: str, ours: Found, theirs: Found) -> Pairs:
    mine, its = ours[name].values, theirs[name].values
    numbers = sorted(int(each) for each in mine.keys() & its.keys())
    return [(mine[str(at)], its[str(at)]) for at in numbers if (name, at) not in tasks.left_out]


def _measure(name: str, facts: TaskFacts, pairs: Pairs, comparisons: int, more: Mapping[str, Any]) -> Measure:
    sign = 1 if facts.higher_is_better else -1
    differences = [sign * (mine - its) for mine, its in pairs]
    return Measure(
        name=name,
        model=sum(mine for mine, _ in pairs) / len(pairs),
        against=sum(its for _, its in pairs) / len(pairs),
        comparison=compare(differences, comparisons=comparisons),
        lower_is_better=not facts.higher_is_better,
        wins=count_wins(differences, comparisons=comparisons) if len(pairs) >= LEAST else None,
        more=more,
    )


def _has_one_metric(tasks: TaskSet, named: NamedTasks) -> bool:
    facts = [tasks.facts[each] for each in named.tasks]
    return len({(each.label, each.higher_is_better, each.per_document) for each in facts}) == 1


def _together(tasks: TaskSet, named: NamedTasks, ours: Found, theirs: Found, comparisons: int) -> list[Measure]:
    """The tasks of a group as one: by documents, or each task as much as another, as the group itself asks."""
    first = tasks.facts[named.tasks[0]]
    if not _has_one_metric(tasks, named) or not first.per_document:
        return []
    by_task = [_pairs(tasks, each, ours, theirs) for each in named.tasks]
    weighted = zip(by_task, _weights(by_task, named), strict=True)
    pairs = [pair for each, weight in weighted for pair in _times(each, weight)]
    return [_measure(f"{named.name} {first.label}", first, pairs, comparisons, {"metric": first.metric})]


def _weights(by_task: Sequence[Pairs], named: NamedTasks) -> list[float]:
    total = sum(map(len, by_task))
    return [1.0 if named.by_size or not each else total / len(by_task) / len(each) for each in by_task]


def _times(pairs: Pairs, weight: float) -> Pairs:
    return [(mine * weight, its * weight) for mine, its in pairs]
