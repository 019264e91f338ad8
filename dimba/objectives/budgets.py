"""Starting batch sizes and ranks by a GPU's memory, and the nominal sizes of GPUs."""

from collections.abc import Mapping
from dataclasses import dataclass

BUDGETS = (4, 8, 16, 24, 40)  # GB of a GPU
FILLED = 0.9  # share of the free memory that an automatic choice fills; the rest is for fragmentation

ByMethod = Mapping[str, int]


def by_method(text: str) -> ByMethod:
    """`1/2/1` as a number for each of LoRA, Q-LoRA and full fine-tuning."""
    return dict(zip(("lora", "qlora", "full"), map(int, text.split("/")), strict=True))


@dataclass(frozen=True)
class Budget:
    """Batch size by method and LoRA rank for a GPU of this size, whatever the objective."""

    batch: ByMethod
    rank: int


_TABLE = {
    4: Budget(by_method("1/2/1"), 4),
    8: Budget(by_method("2/4/1"), 4),
    16: Budget(by_method("4/8/2"), 8),
    24: Budget(by_method("8/16/4"), 16),
    40: Budget(by_method("16/32/8"), 16),
}


def budget_of(vram_gb: float | None) -> int:
    """The budget at or below a size in GB; the smallest for less, and without a GPU."""
    return max((budget for budget in BUDGETS if budget <= (vram_gb or 0)), default=BUDGETS[0])


def starting_point(vram_gb: float | None) -> Budget:
    """The starting values for a GPU of this size in GB."""
    return _TABLE[budget_of(vram_gb)]


# Sizes in GB that GPUs are sold in; a driver reports a little less, with ECC up to a tenth.
_NOMINAL = (2, 3, 4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 64, 80, 94, 96, 128, 141, 180, 192, 288)


def nominal_gb(memory_mib: int) -> int:
    """The size in GB that a GPU is sold as: 24 for one that reports 22.5 or 23.6 GiB."""
    gib = memory_mib / 1024
    size = next((size for size in _NOMINAL if size >= gib - 0.05), round(gib))
    return size if gib > 0.89 * size else round(gib)
