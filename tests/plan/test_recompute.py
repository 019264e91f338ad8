"""Activation checkpointing is of as few layers as memory needs, and the plan prints the choice."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from dimba.common.errors import HostCannot
from dimba.host.facts import Gpu, GpuFacts
from dimba.host.trainer import own_trainer
from dimba.objectives.budgets import FILLED
from dimba.plan.model import LaunchPlan
from tests.plan.test_memory import LARGE
from tests.plan.test_plan import plan
from tests.plan.test_speed import CARDS

FLAG = "--activation-checkpointing"
SMALL = "training: {batch_size: 1, max_length: 512}"
SAMPLED = "training: {batch_size: 8, grad_accumulation_steps: 2, max_length: 512}"
LONG = "training: {batch_size: 4, max_length: 1024}"


def planned(added: str, *, mib: int | None = 24564, cards: int = 1, **facts: Any) -> LaunchPlan:
    gpus = tuple(Gpu(index=n, uuid=f"GPU-{n}", memory_mib=mib, compute_capability=8.9) for n in range(cards))
    return plan(added, replace(CARDS, **{"checkpoint": LARGE, "gpu": GpuFacts(gpus=gpus), **facts}))


def checkpointing(made: LaunchPlan) -> tuple[str | None, str]:
    """(the flag that the trainer gets, the plan's sentence)."""
    asked = made.argv[made.argv.index(FLAG) + 1] if FLAG in made.argv else None
    return asked, made.speed[-1].removeprefix("activation checkpointing: ")


def gib(made: LaunchPlan) -> str:
    return f"{total(made) / (1 << 30):.1f}"


def total(made: LaunchPlan) -> int:
    assert made.memory is not None
    return made.memory.total


def test_what_fits_is_kept_and_the_estimate_is_of_that():
    kept, again = planned(f"method: lora\n{SMALL}"), planned(f"method: lora\n{SMALL}\ntrainer_args: {{{FLAG[2:]}: on}}")
    assert checkpointing(kept) == (None, f"off, {gib(kept)} of 24.0 GiB")
    assert checkpointing(again) == ("on", "all 32 layers (as asked)")
    assert total(kept) > total(again)


def test_only_as_many_layers_as_memory_needs_are_recomputed():
    made = planned(f"method: lora\n{LONG}")
    asked, said = checkpointing(made)
    number = int(asked or 0)
    assert 0 < number < 32 and said == f"{number} of 32 layers, {gib(made)} of 24.0 GiB"
    assert total(made) <= FILLED * (24564 << 20) < total(planned_with(number - 1))
    larger = planned(f"method: lora\n{LONG}", mib=81559 * 2)
    assert checkpointing(larger)[0] is None and total(larger) > total(made)
    assert made.start_notes[-1] == made.speed[-1], "what launch prints"
    assert made.as_json()["activations"] == {"layers": number, "of": 32, "offload": False, "text": said}


def planned_with(value: object, **options: Any) -> LaunchPlan:
    return planned(f"method: lora\n{LONG}\ntrainer_args: {{{FLAG[2:]}: {value}}}", **options)


def test_more_layers_never_need_more_memory():
    totals = [total(planned_with(number, mib=81559)) for number in (1, 8, 16, 31, 32)]
    assert all(more >= less for more, less in pairwise(totals)) and totals[0] > totals[-1]
    named = [total(planned_with(word, mib=81559)) for word in ("'off'", "'on'", "offload")]
    assert named[0] > totals[0] and named[1] == totals[-1] > named[2]


def test_inputs_go_to_the_host_where_recomputing_all_layers_is_not_enough():
    long = "method: lora\ntraining: {batch_size: 1, max_length: 12000}"
    made = planned(long)
    asked, said = checkpointing(made)
    assert asked == "offload" and made.memory
    assert made.memory.offloaded == 32 * 12000 * 4096 * 2
    assert said.startswith(f"all 32 layers, their inputs in host memory, {gib(made)} of 24.0 GiB and 2.9 GiB of pinned")
    assert total(made) <= FILLED * (24564 << 20)


def test_activations_that_have_to_be_kept_and_do_not_fit_are_refused_with_the_flag_that_helps():
    with pytest.raises(HostCannot) as caught:
        planned(f"method: lora\n{LONG}\ntrainer_args: {{{FLAG[2:]}: off}}")
    assert f"`--set trainer_args.{FLAG[2:]}=on`" in caught.value.hint
    with pytest.raises(HostCannot) as caught:
        planned(f"method: lora\ntraining: {{batch_size: 1, max_length: 16000}}\ntrainer_args: {{{FLAG[2:]}: on}}")
    assert f"`--set trainer_args.{FLAG[2:]}=offload`" in caught.value.hint


def test_ranks_that_would_wait_for_each_other_do_not_try():
    sharded = planned(f"method: full\n{SMALL}", mib=81559, cards=4)
    assert sharded.strategy == "fsdp2" and checkpointing(sharded) == (
        "on",
        "all 32 layers (the model is sharded because of its size)",
    )
    ours = replace(CARDS.trainer, path=own_trainer("grpo", CARDS.project))
    sampling = [
        planned(f"mode: grpo\nmethod: lora\n{SAMPLED}", mib=81559, cards=cards, trainer=ours) for cards in (1, 2)
    ]
    assert checkpointing(sampling[0])[0] is None
    assert checkpointing(sampling[1]) == ("on", "all 32 layers (several GPUs sample together)")


@pytest.mark.parametrize("unknown", ["the card's memory", "the model's shape", "the flag"])
def test_where_nobody_knows_the_first_step_decides(unknown: str):
    changes = {
        "the card's memory": {"mib": None},
        "the model's shape": {"checkpoint": CARDS.checkpoint},
        "the flag": {"trainer": replace(CARDS.trainer, flags=CARDS.trainer.flags - {FLAG})},
    }
    made = planned(f"method: lora\n{SMALL}", **changes[unknown])
    assert checkpointing(made) == (None, "off if a first step fits without it")
