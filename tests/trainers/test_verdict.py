"""How far a reward model is trusted, in words."""

from dimba.trainers.objectives.grpo.verdict import Verdict


def verdict(pairs: int, right: int, longer: float) -> str:
    return "\n".join(Verdict(pairs=pairs, right=right, longer_chosen=longer, longer_right=longer).lines())


def test_few_pairs_and_mere_length_are_warned_of() -> None:
    assert "no better than a coin" in verdict(1, 1, 0.5) and "nothing but length" not in verdict(1, 1, 0.5)
    assert "nothing but length" in verdict(100, 90, 0.9) and "no better than a coin" not in verdict(100, 90, 0.9)
    assert "warning" not in verdict(100, 90, 0.5)
