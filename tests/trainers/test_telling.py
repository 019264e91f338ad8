"""What a GRPO job says to people."""

from dimba.trainers.objectives.grpo.samples import held_out_line


def test_held_out_prompts_of_which_none_got_a_reward_are_told() -> None:
    assert held_out_line("before", 0.5, None, 4) == "held-out reward before training: 0.5000 (4 prompts)"
    assert held_out_line("after", 0.75, 0.5, 4) == "held-out reward after training: 0.7500 (+0.2500) (4 prompts)"
    assert held_out_line("after", 0.75, None, 4) == "held-out reward after training: 0.7500 (4 prompts)"
    assert held_out_line("after", 1, 1, 4, label="reward (imitation)").startswith("held-out reward (imitation) after")
    assert "none, no completion" in held_out_line("after", None, 0.5, 4)
