import itertools

import pytest

from dimba.host.facts import Gpu
from dimba.objectives.batches import complete_groups
from dimba.objectives.budgets import BUDGETS, nominal_gb, starting_point
from dimba.objectives.grpo import GRPO
from dimba.objectives.sft import SFT
from dimba.wizard.defaults import largest_gb, recommended_method


@pytest.mark.parametrize(
    ("mib", "sold_as"),
    [
        (24564, 24), (24126, 24), (23034, 24), (8188, 8), (8119, 8), (12282, 12), (11264, 11), (11178, 11), (15360, 16),
        (16160, 16), (20475, 20), (32607, 32), (46068, 48), (49140, 48), (40536, 40), (81559, 80), (143771, 141),
        (6069, 6), (4040, 4), (95830, 94), (9856, 10),
    ],
)  # fmt: skip
def test_a_gpu_counts_as_the_size_that_it_is_sold_as(mib: int, sold_as: int):
    assert nominal_gb(mib) == sold_as


def test_the_largest_gpu_counts_and_one_of_unknown_size_does_not():
    assert largest_gb((Gpu(index=0, memory_mib=8188), Gpu(index=1, memory_mib=24564), Gpu(index=2))) == 24
    assert largest_gb((Gpu(index=0),)) is None


@pytest.mark.parametrize(
    ("gb", "method"),
    [(None, "qlora"), (4, "qlora"), (8, "qlora"), (11, "qlora"), (12, "lora"), (16, "lora"), (24, "lora"), (32, "lora"),
     (40, "full"), (80, "full")],
)  # fmt: skip
def test_the_method_follows_the_budget(gb: int | None, method: str):
    assert recommended_method(gb)[0] == method


# Budget: batch as LoRA/Q-LoRA/full, accumulation for SFT and for GRPO, rank, steps for SFT and GRPO.
EXPECTED = {
    4: ((1, 2, 1), (64, 32, 32), (32, 16, 16), 4, 1000, 500),
    8: ((2, 4, 1), (32, 16, 32), (16, 8, 16), 4, 1000, 500),
    16: ((4, 8, 2), (16, 8, 16), (8, 4, 8), 8, 2000, 800),
    24: ((8, 16, 4), (8, 4, 8), (4, 2, 4), 16, 3000, 1000),
    40: ((16, 32, 8), (4, 2, 4), (2, 1, 2), 16, 3000, 1000),
}


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_budget_starts_from_its_row_of_the_table(budget: int):
    common, of_sft, of_grpo = starting_point(budget), SFT.start(budget), GRPO.start(budget)
    batch, sft, grpo, rank, sft_steps, grpo_steps = EXPECTED[budget]
    methods = ("lora", "qlora", "full")
    assert tuple(common.batch[method] for method in methods) == batch
    assert tuple(of_sft.accumulation[method] for method in methods) == sft
    assert tuple(of_grpo.accumulation[method] for method in methods) == grpo
    assert (common.rank, of_sft.max_steps, of_grpo.max_steps) == (rank, sft_steps, grpo_steps)


@pytest.mark.parametrize(("gb", "budget"), [(12, 8), (20, 16), (32, 24), (80, 40), (3, 4), (None, 4)])
def test_a_size_between_two_rows_takes_the_lower_one(gb: int | None, budget: int):
    assert starting_point(gb) is starting_point(budget)
    assert SFT.start(gb) is SFT.start(budget)


def test_accumulation_grows_until_groups_are_complete():
    every = itertools.product(range(1, 20), (1, 2, 3, 5, 8), (1, 2, 8), (2, 3, 4, 8, 12))
    for wanted, batch, processes, generations in every:
        found, _ = complete_groups(wanted, batch_size=batch, processes=processes, generations=generations)
        assert found >= wanted
        assert found * batch * processes % generations == 0
        if found > wanted:
            assert found * batch % generations == 0, "complete on one process too, if it had to grow anyway"
            assert found - wanted < generations
