"""A run that learned nothing says so, with the cause; one that learned is never called the opposite."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from dimba.trainers.objectives.learning import first_and_last_losses
from dimba.trainers.objectives.verdict import Evidence, verdict

LEARNED = Evidence(trained=28, steps=10, updates=9, changed=28, changed_as_saved=28, output_change=0.1)
ALL = tuple(f"tensor.{n}" for n in range(28))


def test_a_run_with_gradients_and_changed_weights_learned():
    assert verdict(LEARNED).learned and not verdict(LEARNED).notes


def test_a_small_change_of_the_output_is_learning():
    assert verdict(replace(LEARNED, output_change=1e-4)).learned


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"without_gradient": ALL, "changed": 0, "changed_as_saved": 0}, "every gradient was zero in 10 steps"),
        ({"without_gradient": ALL}, "every gradient was zero"),  # only the weight decay moved the weights
        ({"has_equal_rewards": True}, "same reward"),
        ({"updates": 0, "steps": 1, "changed": 0, "changed_as_saved": 0}, "the learning rate was 0 in 1 step:"),
        ({"changed": 0, "changed_as_saved": 0}, "no weight changed"),
        ({"changed_as_saved": 0, "precision": "bfloat16"}, "smaller than bfloat16"),
        ({"output_change": 1e-9}, "the model's output is the base's"),
        ({"is_finite": False}, "not numbers"),
        ({"trained": 0, "changed": 0, "changed_as_saved": 0}, "no tensor is trained"),
    ],
)
def test_a_run_that_learned_nothing_names_the_cause(change: dict, cause: str):
    found = verdict(replace(LEARNED, **change))
    assert not found.learned and cause in found.cause and found.hint


def test_a_resumed_run_without_a_step_left_has_learned_in_its_earlier_attempt():
    assert verdict(replace(LEARNED, steps=0, updates=0, without_gradient=ALL, is_resumed=True)).learned


def test_some_tensors_without_a_gradient_are_a_warning_and_unused_experts_a_note():
    names = ("vision.a", "vision.b", "model.layers.0.mlp.experts.7.up_proj.weight")
    found = verdict(replace(LEARNED, without_gradient=names))
    assert found.learned
    assert found.notes[0] == "warning: 2 of 28 trained tensors never had a gradient: vision.a, vision.b"
    assert found.notes[1].startswith("1 tensors of experts had no gradient")


def test_a_loss_that_rose_is_a_warning_and_one_that_fell_or_wavers_is_none():
    [note] = verdict(replace(LEARNED, losses=(5.9, 16.1))).notes
    assert note == "warning: the loss rose from 5.90 to 16.10: lower `training.learning_rate`"
    assert not any(verdict(replace(LEARNED, losses=(2.0, last))).notes for last in (0.1, 2.9))


def test_the_first_and_last_losses_are_those_of_quarters_of_the_steps():
    history = [{"loss": float(n)} for n in range(8)] + [{"eval_loss": 9.0}]
    assert first_and_last_losses(SimpleNamespace(log_history=history)) == (0.5, 6.5)
    assert first_and_last_losses(SimpleNamespace(log_history=history[:7])) is None
