"""Bytes of what stays on a GPU for a whole job: model states, further models, buffers of several GPUs. Pure."""

from dataclasses import replace

from dimba.host.facts import CheckpointFacts, ModelShape
from dimba.objectives.vllm_memory import ASLEEP
from dimba.options.optimiser_table import OPTIMIZERS
from dimba.plan.activations import FLOAT32, HALF, Precision
from dimba.plan.adapter import adapter_parameters
from dimba.plan.job import ResolvedJob
from dimba.plan.model import MemoryEstimate
from dimba.plan.share import Share, memory_terms, precision_of

# nf4 with double quantisation: 4 bits, and 0.127 for the scales of blocks of 64 (QLoRA, arXiv:2305.14314, section 3).
_NF4 = 4.127 / 8
_MIB = 1 << 20
# Assumed, not measured: the driver's context with torch's kernels and cuBLAS' workspaces, and NCCL's buffers beside it
# (NVIDIA, NCCL's documentation: NCCL_BUFFSIZE, 4 MiB a channel and peer).
_CONTEXT, _NCCL = 640 * _MIB, 384 * _MIB


def model_states(job: ResolvedJob, checkpoint: CheckpointFacts, *, on_cpu: bool, shards: int) -> MemoryEstimate | None:
    """Weights, adapter, gradients and optimiser; None for a checkpoint that is not at hand."""
    parameters = checkpoint.parameters
    if parameters is None or checkpoint.linear_sides is None:
        return None
    trained = parameters if job.method == "full" else adapter_parameters(job, checkpoint)
    states = MemoryEstimate(
        weights=_base(job, checkpoint, on_cpu=on_cpu) // shards,
        adapter=0 if job.method == "full" else trained * FLOAT32 // shards,
        gradients=trained * FLOAT32 // shards,
        # AdamW keeps two float32 moments a trained parameter (Rajbhandari et al., ZeRO, arXiv:1910.02054, section 3.1).
        optimizer=int(trained * OPTIMIZERS[job.spec.training.optimizer]) // shards,
        model_states=0,
    )
    return replace(states, model_states=states.total)


def _base(job: ResolvedJob, checkpoint: CheckpointFacts, *, on_cpu: bool, trained: bool | None = None) -> int:
    """Weights of the base: float32 where they are trained or on the CPU, else bf16, of that nf4 what is quantised."""
    parameters = checkpoint.parameters or 0
    trained = job.method == "full" if trained is None else trained
    other = FLOAT32 if trained or on_cpu else HALF
    quantised = (checkpoint.linear_parameters or 0) if job.method == "qlora" else 0
    return int(quantised * _NF4) + (parameters - quantised) * other


def with_others(job: ResolvedJob, checkpoint: CheckpointFacts, share: Share, states: MemoryEstimate) -> MemoryEstimate:
    """The states, and what else stays there all the time."""
    several = share.processes > 1
    shape = checkpoint.shape
    return replace(
        states,
        # DDP: gradients are copied into its buckets (`gradient_as_bucket_view=False`).
        buckets=states.gradients if several and share.shards == 1 else 0,
        gathered=_gathered(shape, precision_of(job, share.mixed, shape)) if share.shards > 1 and shape else 0,
        reference=_reference(job, checkpoint, share),
        reward=_reward(job, checkpoint, share),
        vllm=ASLEEP if memory_terms(job, share).vllm else 0,
        context=_CONTEXT + (_NCCL if several else 0),
    )


def _gathered(shape: ModelShape, precision: Precision) -> int:
    """One layer at work, the next on its way, and the head (Zhao et al., PyTorch FSDP, arXiv:2304.11277).

    Where they are trained, a layer's gradients and the head's beside them, until these are shared out.
    """
    layer, head = shape.block_parameters, shape.vocabulary * shape.hidden
    gradients = (layer + head) * FLOAT32 if precision.trains_base else 0
    return (2 * layer + head) * precision.compute + gradients


def _reference(job: ResolvedJob, checkpoint: CheckpointFacts, share: Share) -> int:
    """The frozen copy of a base that is trained in full; an adapter is switched off instead."""
    terms = memory_terms(job, share)
    if job.method != "full" or not terms.reference:
        return 0
    return _base(job, checkpoint, on_cpu=False, trained=False)


def _reward(job: ResolvedJob, checkpoint: CheckpointFacts, share: Share) -> int:
    """The reward model: the base once more, frozen, with an adapter of its own."""
    return _base(job, checkpoint, on_cpu=False, trained=False) if memory_terms(job, share).reward_model else 0
