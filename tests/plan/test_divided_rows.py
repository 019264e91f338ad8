"""GPUs share rows only where one row does not fit a GPU, and the plan gives the reason."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import DimbaError, HostCannot
from dimba.host.trainer import own_trainer
from dimba.plan.model import LaunchPlan
from tests.plan.test_recompute import checkpointing, planned, total
from tests.plan.test_speed import CARDS

FLAG = "--sequence-parallel"
TRAINER = replace(CARDS.trainer, flags=CARDS.trainer.flags | {FLAG})
LONG = "training: {batch_size: 1, max_length: 131072, grad_accumulation_steps: 16}"
ASKED = "accelerate: {{sequence_parallel: {}}}"


def long(added: str, cards: int = 8, **facts: Any) -> LaunchPlan:
    return planned(f"{LONG}\n{added}", cards=cards, **{"trainer": TRAINER, **facts})


def ranks(made: LaunchPlan) -> str | None:
    return made.argv[made.argv.index(FLAG) + 1] if FLAG in made.argv else None


def test_as_few_gpus_share_a_row_as_it_needs_and_the_plan_says_why():
    made = long("method: qlora")
    assert ranks(made) == "8" and made.strategy == "ddp"
    assert "; 8 GPUs share each row: one row needs " in made.strategy_why and " a GPU has 24.0" in made.strategy_why
    assert "Use `method" not in made.strategy_why and total(made) <= 24564 << 20
    assert checkpointing(made) == ("on", "all 32 layers (several GPUs share a row)")


def test_rows_that_fit_are_not_shared():
    short = "training: {batch_size: 1, max_length: 4096}"
    assert ranks(planned(f"method: lora\n{short}", cards=8, trainer=TRAINER)) is None
    sharded = planned(f"method: full\n{short}", mib=81559, cards=8, trainer=TRAINER)
    assert ranks(sharded) is None and sharded.strategy == "fsdp2"


def test_a_sharded_model_shares_rows_as_well_where_one_row_does_not_fit_beside_its_part():
    made = planned(f"method: full\n{LONG}", mib=81559, cards=8, trainer=TRAINER)
    assert ranks(made) == "4" and made.strategy == "fsdp2" and "4 GPUs share each row" in made.strategy_why


def test_the_effective_batch_and_the_rows_of_a_process_do_not_depend_on_how_many_share_a_row():
    shared, alone = long(f"method: qlora\n{ASKED.format(8)}"), planned("method: qlora", cards=8, trainer=TRAINER)
    assert shared.steps.effective_batch == 16 and shared.steps.accumulation == 2
    assert alone.steps.accumulation == 2


def test_asked_for_it_is_as_asked():
    short = "training: {batch_size: 1, max_length: 4096}"
    made = planned(f"method: lora\n{short}\n{ASKED.format(4)}", cards=8, trainer=TRAINER)
    assert ranks(made) == "4" and made.strategy_why.endswith("as asked, 4 GPUs share each row")
    assert ranks(planned(f"method: lora\n{short}\n{ASKED.format(1)}", cards=8, trainer=TRAINER)) is None
    with pytest.raises(HostCannot, match="memory: it needs"):
        long(f"method: qlora\n{ASKED.format(1)}")


def test_a_trainer_of_an_older_image_shares_no_rows_of_its_own_accord():
    with pytest.raises(HostCannot, match="memory: it needs"):
        long("method: qlora", trainer=CARDS.trainer)


@pytest.mark.parametrize(
    ("added", "why", "hint", "facts"),
    [
        ("resources: {gpus: 1}", "the job has one", "more in `resources.gpus`", {}),
        ("resources: {gpus: none}", "the job has none", "leave out", {}),
        ("resources: {gpus: 6}\ntraining: {batch_size: 3}", "6 on a machine are no multiple", "divisor of 6", {}),
        ("mode: grpo", "`mode: grpo` needs complete rows", "leave out", {"path": own_trainer("grpo", CARDS.project)}),
        ("", "a custom trainer does not do it", "or set it to 1", {"path": Path("own.py")}),
    ],
)
def test_what_cannot_share_rows_is_refused_with_the_reason(added: str, why: str, hint: str, facts: dict[str, Any]):
    with pytest.raises(DimbaError) as caught:
        planned(f"{added}\n{ASKED.format(4)}", cards=8, trainer=replace(TRAINER, **facts))
    assert why in str(caught.value) and hint in str(caught.value) and caught.value.exit_status == 2


def test_heads_that_the_gpus_cannot_divide_are_refused_with_a_number_that_works():
    with pytest.raises(DimbaError) as caught:
        planned(f"method: lora\n{ASKED.format(3)}\ntraining: {{batch_size: 6}}", cards=6, trainer=TRAINER)
    assert "the model has 32 heads, 8 of keys" in str(caught.value) and "to 2, or to 1" in str(caught.value)
