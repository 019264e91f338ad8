"""The saved model against the one that training had in memory, by the tokens that it continued a few prompts with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dimba.common.errors import RunFailed
from dimba.trainers.export.agreement import Progress
from dimba.trainers.models.families import half_of
from dimba.trainers.models.saved_model import evaluating

if TYPE_CHECKING:
    from dimba.trainers.models.trained import Loaded

_FLIPS, _SHARE = 2, 0.1  # training computes in another precision: near ties may go the other way


def compare_with_memory(loaded: Loaded, noted: Sequence[Mapping[str, Any]], progress: Progress) -> dict[str, Any]:
    """The share of noted tokens that are the likeliest of the saved model too; empty if none are noted.

    Raises:
        RunFailed: it continues otherwise, so that its files, or those of its base, are not those of training.
    """
    rows = [(list(each["prompt"]), list(each["tokens"])) for each in noted if each.get("prompt") and each.get("tokens")]
    if not rows:
        return {}
    equal = count = 0
    for number, (prompt, tokens) in enumerate(rows):
        progress("the model in memory", number, len(rows))
        with evaluating(loaded.model):
            likeliest = half_of(loaded.model).retraced(loaded.model, prompt, tokens)
        equal += sum(one == two for one, two in zip(likeliest, tokens, strict=True))
        count += len(likeliest)
    progress("the model in memory", len(rows), len(rows))
    if count - equal > max(_FLIPS, _SHARE * count):
        other = "the saved model continues otherwise than the trained one in memory did"
        cause = f"{other}: {equal} of {count} tokens are equal"
        hint = "restore the output folder and the base as the run left them, or train again"
        raise RunFailed(cause, hint, reason="export_differs")
    return {"positions": count, "agreement": float(f"{equal / count:.4g}")}
