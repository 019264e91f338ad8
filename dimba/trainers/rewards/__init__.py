"""GRPO's rewards: verifiers, companions, functions of the user's own, and which one fits the data."""

from collections.abc import Sequence

from dimba.objectives.rewards import RewardSpec
from dimba.trainers.rewards.answers import Answers, Reward
from dimba.trainers.rewards.builtin import make_builtin
from dimba.trainers.rewards.choice import Choice, choose
from dimba.trainers.rewards.custom import Custom, probe
from dimba.trainers.rewards.verifiers import check_reference, needs_reference

__all__ = [
    "Answers",
    "Choice",
    "Reward",
    "check_reference",
    "choose",
    "make_rewards",
    "needs_reference",
    "probe",
]


def make_rewards(specs: Sequence[RewardSpec]) -> list[Reward]:
    """The rewards of those names; `auto` and `preference` are for others to make."""
    return [Custom(spec) if spec.file else make_builtin(spec) for spec in specs]
