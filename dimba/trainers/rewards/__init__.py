"""GRPO's rewards: verifiers, the length and imitation rewards, users' functions, and the choice that fits the data."""

from dimba.objectives.rewards import RewardSpec, needs_reference
from dimba.trainers.rewards.builtin import make_builtin
from dimba.trainers.rewards.choice import Choice, choose
from dimba.trainers.rewards.completions import Completions, Reward
from dimba.trainers.rewards.custom import CustomReward
from dimba.trainers.rewards.probe import probe
from dimba.trainers.rewards.verifiers import check_reference

__all__ = [
    "Choice",
    "Completions",
    "Reward",
    "check_reference",
    "choose",
    "make_reward",
    "needs_reference",
    "probe",
]


def make_reward(spec: RewardSpec) -> Reward:
    """The reward for any spec but `auto` and `preference`; raises BadInput for an unusable function or schema."""
    return CustomReward(spec) if spec.file else make_builtin(spec)
