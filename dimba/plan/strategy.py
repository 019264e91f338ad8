"""How the processes of a job share a model, and why so."""

from collections.abc import Sequence

from dimba.errors import BadInput, DimbaError
from dimba.host.facts import Gpu
from dimba.plan.model import MemoryEstimate
from dimba.spec import JobSpec

_GIB = 1 << 30
_KEY = "accelerate.strategy: `fsdp2`"


def choose_strategy(
    spec: JobSpec, processes: int, gpus: Sequence[Gpu], memory: MemoryEstimate | None
) -> tuple[str, str]:
    """(`one process` or `ddp`, why)."""
    if processes == 1:
        return "one process", "there is nothing to share"
    if spec.accelerate.strategy == "ddp":
        why = "as asked"
    elif spec.method == "qlora":
        why = "a quantised base is shared in no other way"
    else:
        why = "the only one there is"
    return "ddp", f"{why}: each of {processes} processes holds the model whole{_too_large(gpus, memory)}"


def _too_large(gpus: Sequence[Gpu], memory: MemoryEstimate | None) -> str:
    cards = [gpu.memory_mib for gpu in gpus if gpu.memory_mib]
    if memory is None or not cards or memory.model_states <= (smallest := min(cards) << 20):
        return ""
    needed = f"{memory.model_states / _GIB:.1f} GiB without activations"
    return f"; that does not fit: {needed}, and a card has {smallest / _GIB:.1f}. Take `method: lora` or `qlora`"


def strategy_problems(spec: JobSpec) -> list[DimbaError]:
    """What cannot be had of `accelerate.strategy`, with the reason."""
    if spec.accelerate.strategy != "fsdp2":
        return []
    if spec.method == "qlora":
        return [BadInput(f"{_KEY} with `method: qlora` breaks: 4-bit weights cannot be sharded", "set `strategy: ddp`")]
    if spec.resources.gpus == "none":
        why = "has no effect on the CPU: accelerate trains as with ddp there, and says nothing"
        return [BadInput(f"{_KEY} {why}", "set `strategy: auto`")]
    return [BadInput(f"{_KEY} is not there yet", "set `strategy: auto`, or a `method` that fits one card")]
