"""A trial of a reward function before training."""

from dimba.common.errors import BadInput, RunFailed
from dimba.trainers.rewards.completions import Completions, Reward
from dimba.trainers.rewards.custom import FAILURES, CustomReward
from dimba.trainers.rewards.results import scores_of


def probe(reward: Reward, completions: Completions) -> str | None:
    """Call a user's function once, if need be with the other form of texts; returns a note for the user.

    Raises:
        BadInput: it fails in both forms, or returns anything but scores.
    """
    if not isinstance(reward, CustomReward):
        return None
    error = _failure(reward, completions)
    if error is None:
        return None
    reward.has_other_form = True
    if _failure(reward, completions) is None:
        form = "lists of messages" if all(example.plain for example in completions.examples) else "plain texts"
        return f"the reward `{reward.name}` works on {form} only: it gets prompts and completions in that form"
    reward.has_other_form = False
    raise error


def _failure(reward: CustomReward, completions: Completions) -> BadInput | RunFailed | None:
    try:
        result = reward.call(completions)
    except FAILURES as error:
        failure = reward.failure(completions, error, BadInput)
        failure.__cause__ = error
        return failure
    try:
        scores_of(result, reward.name, completions.places, BadInput)
    except BadInput as refusal:
        return refusal
    return None
