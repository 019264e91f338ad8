"""What to start from: defaults by VRAM budget, mode and method. Standard library only."""

from dataclasses import dataclass

from dimba.host.facts import Gpu

BUDGETS = (4, 8, 16, 24, 40)
# Sizes that cards are sold in, GB; a driver reports a little less, with ECC up to a tenth.
_NOMINAL = (2, 3, 4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 64, 80, 94, 96, 128, 141, 180, 192, 288)


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


def nominal_gb(memory_mib: int) -> int:
    """The size a card is sold as: 24 for the 22.5 or 23.6 GiB that one reports."""
    gib = memory_mib / 1024
    size = next((size for size in _NOMINAL if size >= gib - 0.05), round(gib))
    return size if gib > 0.89 * size else round(gib)


def largest_gb(gpus: tuple[Gpu, ...]) -> int | None:
    """Nominal size of the largest card; None where there is none, or none tells its size."""
    sizes = [nominal_gb(gpu.memory_mib) for gpu in gpus if gpu.memory_mib]
    return max(sizes, default=None)


def row_for(vram_gb: float | None) -> Row:
    """The table's row at or below a budget; the smallest for less, and where there is no GPU."""
    return TABLE[max((budget for budget in BUDGETS if budget <= (vram_gb or 0)), default=BUDGETS[0])]


def recommended_method(vram_gb: float | None) -> tuple[str, str]:
    """(method, why) for a budget; None is no GPU."""
    if vram_gb is None:
        return "qlora", "no GPU"
    if vram_gb < 12:
        return "qlora", "under 12 GB"
    if vram_gb < 40:
        return "lora", "12 to 40 GB"
    return "full", "from 40 GB"
