"""Defaults by VRAM budget. Standard library only."""

from dimba.host.facts import Gpu
from dimba.objectives.budgets import nominal_gb


def largest_gb(gpus: tuple[Gpu, ...]) -> int | None:
    """Nominal size in GB of the largest GPU; None without a GPU of known size."""
    sizes = [nominal_gb(gpu.memory_mib) for gpu in gpus if gpu.memory_mib]
    return max(sizes, default=None)


def recommended_method(vram_gb: float | None) -> tuple[str, str]:
    """(method, reason) for a budget in GB; None means no GPU."""
    if vram_gb is None:
        return "qlora", "no GPU"
    if vram_gb < 12:
        return "qlora", "under 12 GB"
    if vram_gb < 40:
        return "lora", "12 to 40 GB"
    return "full", "from 40 GB"
