"""How rows become optimiser steps, and how large a step is. Both the plan and the trainers count with it."""

import math
from dataclasses import dataclass

CARD_FILLED = 0.9  # of what is free, by what nobody asked for: other rows leave other gaps between them
GENERATIONS = 8  # completions of one prompt that GRPO compares, unless told otherwise


def steps_per_epoch(rows: int, *, batch_size: int, accumulation: int) -> int:
    """Optimiser steps in one pass over `rows`, on however many processes; the last one may be short."""
    return max(1, math.ceil(rows / (batch_size * accumulation)))


def total_steps(per_epoch: int, *, epochs: float, max_steps: int | None) -> int:
    """Optimiser steps of the whole job: `max_steps` where given, else the epochs' worth."""
    return max_steps if max_steps is not None else max(1, math.ceil(per_epoch * epochs))


def group_unit(generations: int, batch_size: int) -> int:
    """The fewest batches that hold whole groups of so many completions."""
    return generations // math.gcd(generations, batch_size)


def whole_groups(asked: int, *, batch_size: int, processes: int, generations: int | None) -> tuple[int, int]:
    """(accumulation, completions a prompt), so that the completions of a step are whole groups.

    Where `generations` is given, accumulation grows from `asked` on until they are, on one process too; otherwise it
    is the largest number up to GENERATIONS that fits as it is.
    """
    completions = asked * batch_size * processes
    fitting = [each for each in range(GENERATIONS, 1, -1) if completions % each == 0]
    generations = generations or (fitting[0] if fitting else GENERATIONS)
    if completions % generations == 0:
        return asked, generations
    step = group_unit(generations, batch_size)
    return math.ceil(asked / step) * step, generations


def group_steps_per_epoch(prompts: int, *, prompts_a_step: int) -> int:
    """Optimiser steps in one pass of GRPO: prompts that do not fill a step are left to the next pass."""
    return max(1, prompts // prompts_a_step)


def default_learning_rate(mode: str, method: str) -> float:
    """What trains: 2e-4 and 2e-5 for SFT; GRPO's published recipes are twenty times below."""
    rates = {("sft", False): 2e-4, ("sft", True): 2e-5, ("grpo", False): 1e-5, ("grpo", True): 1e-6}
    return rates[mode, method == "full"]


BUDGETS = (4, 8, 16, 24, 40)  # GB of a card


@dataclass(frozen=True)
class Row:
    """One budget's line: batch size by method, accumulation by mode and method, rank, steps by mode."""

    batch: dict[str, int]
    accumulation: dict[str, dict[str, int]]
    rank: int
    max_steps: dict[str, int]


def _row(batch: str, sft: str, grpo: str, rank: int, max_steps: tuple[int, int]) -> Row:
    return Row(
        batch=_by_method(batch),
        accumulation={"sft": _by_method(sft), "grpo": _by_method(grpo)},
        rank=rank,
        max_steps={"sft": max_steps[0], "grpo": max_steps[1]},
    )


def _by_method(text: str) -> dict[str, int]:
    return dict(zip(("lora", "qlora", "full"), map(int, text.split("/")), strict=True))


#        batch, then accumulation for SFT and GRPO, each as LoRA/Q-LoRA/full; rank; steps for SFT and GRPO
TABLE = {
    4: _row("1/2/1", "64/32/32", "32/16/16", 4, (1000, 500)),
    8: _row("2/4/1", "32/16/32", "16/8/16", 4, (1000, 500)),
    16: _row("4/8/2", "16/8/16", "8/4/8", 8, (2000, 800)),
    24: _row("8/16/4", "8/4/8", "4/2/4", 16, (3000, 1000)),
    40: _row("16/32/8", "4/2/4", "2/1/2", 16, (3000, 1000)),
}


def row_for(vram_gb: float | None) -> Row:
    """The table's row at or below a budget; the smallest for less, and where there is no GPU."""
    return TABLE[max((budget for budget in BUDGETS if budget <= (vram_gb or 0)), default=BUDGETS[0])]


# Sizes that cards are sold in, GB; a driver reports a little less, with ECC up to a tenth.
_NOMINAL = (2, 3, 4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 64, 80, 94, 96, 128, 141, 180, 192, 288)


def nominal_gb(memory_mib: int) -> int:
    """The size a card is sold as: 24 for the 22.5 or 23.6 GiB that one reports."""
    gib = memory_mib / 1024
    size = next((size for size in _NOMINAL if size >= gib - 0.05), round(gib))
    return size if gib > 0.89 * size else round(gib)
