"""What the plan says of the trainer's choices for speed."""

from dataclasses import replace
from pathlib import Path

import pytest

from dimba.host.facts import GpuFacts
from tests.plan.test_plan import FACTS, FLAGS, plan, refusal

SPEED = {"--packing", "--attention", "--activation-checkpointing", "--mixed-precision", "--float8"}
CARDS = replace(FACTS, trainer=replace(FACTS.trainer, flags=FLAGS | SPEED))
CPU = replace(CARDS, gpu=GpuFacts(problem="none"))


@pytest.mark.parametrize(
    ("lines", "on_cpu", "said"),
    [
        ("", True, "float32 (the CPU; bf16 if asked for); rows packed if"),
        (
            "",
            True,
            "attention within documents (the CPU), else sdpa; the head computes tokens with loss only; "
            "activation checkpointing: off (a CPU has memory)",
        ),
        ("", False, "mixed bf16 (the fastest of these GPUs)"),
        (
            "",
            False,
            "the head computes tokens with loss only; activation checkpointing: off if a first step fits without it",
        ),
        ("accelerate: {mixed_precision: bf16}", True, "mixed bf16 (as asked; float32 where the CPU has neither"),
        ("accelerate: {mixed_precision: fp16}", True, "float32 (fp16 was asked for, and"),
        ("accelerate: {mixed_precision: 'no'}", False, "float32 (as asked)"),
        ("trainer_args: {mixed-precision: bf16}", True, "mixed bf16 (as asked"),
        ("trainer_args: {packing: 'off', attention: eager}", True, "rows padded (as asked), attention eager"),
        ("training: {batch_size: 1}", True, "rows padded (a batch has one row), attention sdpa"),
        ("trainer_args: {activation-checkpointing: 'off'}", False, "activation checkpointing: off (as asked)"),
    ],
)
def test_the_choices_are_told_with_their_reasons(lines: str, on_cpu: bool, said: str):
    assert said in "; ".join(plan(lines, facts=CPU if on_cpu else CARDS).speed)


def test_nothing_is_told_of_somebody_elses_trainer():
    theirs = replace(CPU, trainer=replace(CPU.trainer, path=Path("/work/train.py")))
    assert plan(facts=theirs).speed == ()


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ("lora", "products in float8 train a model in full, without an adapter"),
        ("full", "the image that dimba builds has no torchao"),
    ],
)
def test_float8_is_refused_before_the_launch_where_the_spec_rules_it_out(method: str, problem: str):
    refused = refusal(f"trainer_args: {{float8: true}}\nmethod: {method}", CARDS)
    assert f"trainer_args.float8: {problem}" in refused.message and refused.hint


def test_float8_is_left_to_the_trainer_in_an_image_that_may_have_torchao():
    own = replace(CARDS, image=replace(CARDS.image, key=None))
    assert "--float8" in plan("trainer_args: {float8: true}\nmethod: full", own).argv
    assert "--float8" not in plan("trainer_args: {float8: false}\nmethod: full", CARDS).argv
