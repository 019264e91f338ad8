"""Warnings for runs that cannot learn."""

from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from dimba.trainers.objectives.grpo.alarms import Alarms


def printed(capsys: pytest.CaptureFixture[str], **logs: Any) -> str:
    """The output after five steps that have logged the same."""
    alarms, state = Alarms(), TrainerState(max_steps=9, is_world_process_zero=True)
    for state.global_step in range(1, 6):
        alarms.on_log(None, state, TrainerControl(), logs=logs)  # type: ignore[arg-type]  # not used
    return capsys.readouterr().out


def test_a_reward_that_is_always_none_or_always_equal_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no completion gets a reward: each is None (for 5 steps to step 5)" in printed(capsys, reward=None)
    assert not printed(capsys, reward=0.5)
    assert "all completions get the same reward" in printed(capsys, reward=0.5, frac_reward_zero_std=1.0)


def test_a_sampler_far_from_the_trainer_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    near = {"reward": 0.5, "sampler_kl": 0.01, "sampler_truncated": 0.001}
    assert not printed(capsys, **near)
    for far in ({"sampler_kl": 0.2}, {"sampler_truncated": 0.1}):
        told = printed(capsys, **{**near, **far})
        assert "the sampler's probabilities are far from the trainer's" in told and "leave out --sampler" in told
