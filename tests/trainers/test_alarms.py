"""What keeps a run from learning is said."""

from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from dimba.trainers.objectives.grpo.alarms import Alarms


def said(capsys: pytest.CaptureFixture[str], **logs: Any) -> str:
    """What is said once some steps have logged that."""
    alarms, state = Alarms(), TrainerState(max_steps=9, is_world_process_zero=True)
    for state.global_step in range(1, 6):
        alarms.on_log(None, state, TrainerControl(), logs=logs)  # type: ignore[arg-type]  # not looked at
    return capsys.readouterr().out


def test_a_reward_that_is_always_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no completion gets a reward: each is None (for 5 steps to step 5)" in said(capsys, reward=None)
    assert not said(capsys, reward=0.5)
    assert "all completions get the same reward" in said(capsys, reward=0.5, frac_reward_zero_std=1.0)
