"""The lines that a GRPO job prints."""

from dimba.trainers.objectives.grpo.output import held_out_line


def test_the_held_out_line_has_the_reward_and_its_change_or_says_that_there_is_none() -> None:
    assert held_out_line("before", 0.5, None, 4) == "held-out reward before training: 0.5000 (4 prompts)"
    assert held_out_line("after", 0.75, 0.5, 4) == "held-out reward after training: 0.7500 (+0.2500) (4 prompts)"
    assert held_out_line("after", 0.75, None, 4) == "held-out reward after training: 0.7500 (4 prompts)"
    assert held_out_line("after", 1, 1, 4, label="reward (imitation)").startswith("held-out reward (imitation) after")
    assert "none, no completion" in held_out_line("after", None, 0.5, 4)
