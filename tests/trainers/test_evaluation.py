"""The evaluation of a reward model, in words."""

from dimba.trainers.objectives.grpo.evaluation import RewardModelEvaluation


def evaluation(pairs: int, right: int, longer: float) -> str:
    found = RewardModelEvaluation(pairs=pairs, right=right, longer_chosen=longer, longer_right=longer)
    return "\n".join(found.lines())


def test_few_pairs_and_a_preference_for_length_are_warned_of() -> None:
    assert "no better than a coin" in evaluation(1, 1, 0.5) and "nothing but length" not in evaluation(1, 1, 0.5)
    assert "nothing but length" in evaluation(100, 90, 0.9) and "no better than a coin" not in evaluation(100, 90, 0.9)
    assert "warning" not in evaluation(100, 90, 0.5)
