"""By how much models prefer the chosen answers of held-out pairs to the rejected ones."""

from collections.abc import Sequence

from dimba.commands.eval.losses import Losses
from dimba.commands.eval.result import Measure
from dimba.commands.eval.statistics import LEAST, compare, count_wins

Sides = tuple[Losses, Losses]  # of the chosen and the rejected answers


def margin_measures(models: Sequence[Sides], number: int, comparisons: int) -> list[Measure]:
    """How the margins of a model compare with those of the last one, in nats per pair; none without enough pairs."""
    margins = [_margins(*each) for each in models]
    shared = sorted(set.intersection(*(set(each) for each in margins)))
    if len(shared) < LEAST:
        return []
    ours, theirs = ([margins[at][row] for row in shared] for at in (number, -1))
    differences = [mine - its for mine, its in zip(ours, theirs, strict=True)]
    right = {who: sum(each > 0 for each in side) / len(side) for who, side in (("model", ours), ("against", theirs))}
    measure = Measure(
        name="margin",
        model=sum(ours) / len(ours),
        against=sum(theirs) / len(theirs),
        comparison=compare(differences, comparisons=comparisons),
        wins=count_wins(differences, comparisons=comparisons),
        more={"accuracy": right},
    )
    return [measure]


def _margins(chosen: Losses, rejected: Losses) -> dict[int, float]:
    """The log-probability of the chosen answer over that of the rejected one, by the number of the row."""
    found = {}
    for number, other in rejected.items():
        own = chosen.get(number)
        if own and not own.error and not other.error:
            found[number] = other.nats - own.nats
    return found
