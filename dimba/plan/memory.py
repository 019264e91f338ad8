"""The memory estimate, from the safetensors headers alone: model states only, so far."""

from dimba.host.facts import CheckpointFacts
from dimba.plan.model import MemoryEstimate
from dimba.spec import JobSpec

# Bytes a parameter. AdamW keeps two float32 moments; float32 master weights, as bf16 ones drift.
_FLOAT32, _BF16, _ADAM = 4, 2, 8
# nf4 with double quantisation: 4 bits, and 0.127 for the scales of blocks of 64 (QLoRA, arXiv:2305.14314, section 3).
_NF4 = 4.127 / 8


_SAVED_A_SECOND = 100e6  # bytes, to a slow disk
_STOP_AT_LEAST, _STOP_UNKNOWN = 60.0, 300.0


def stop_grace(memory: MemoryEstimate | None) -> float:
    """Seconds in which a job of this size ends its step and saves weights and optimiser."""
    if memory is None:
        return _STOP_UNKNOWN
    saved = (memory.adapter or memory.weights) + memory.optimizer
    return _STOP_AT_LEAST + saved / _SAVED_A_SECOND


def estimate_memory(spec: JobSpec, checkpoint: CheckpointFacts, *, on_cpu: bool) -> MemoryEstimate | None:
    """Bytes for weights, adapter, gradients and optimiser of one process; None for a checkpoint not at hand."""
    if checkpoint.parameters is None or checkpoint.linear_sides is None:
        return None
    if spec.method == "full":
        trained = checkpoint.parameters
        return MemoryEstimate(
            weights=trained * _FLOAT32, adapter=0, gradients=trained * _FLOAT32, optimizer=trained * _ADAM
        )
    adapter = spec.lora.r * checkpoint.linear_sides
    frozen = _FLOAT32 if on_cpu else _BF16
    return MemoryEstimate(
        weights=int(checkpoint.parameters * (_NF4 if spec.method == "qlora" else frozen)),
        adapter=adapter * _FLOAT32,
        gradients=adapter * _FLOAT32,
        optimizer=adapter * _ADAM,
    )
