"""The memory estimate: the peak of one GPU, from config.json and the headers of the weights alone. Pure.

States, activations (`dimba.plan.training`) and what CUDA takes are summed at each moment of a step at which they may be
most; the estimate is the moment that is.
"""

from collections.abc import Iterator
from dataclasses import replace

from dimba.host.facts import CheckpointFacts, ModelShape
from dimba.objectives.vllm_memory import vllm_memory
from dimba.options.diffusion_table import GUIDANCE
from dimba.plan import activations
from dimba.plan.activations import Batch
from dimba.plan.job import ResolvedJob
from dimba.plan.model import MemoryEstimate
from dimba.plan.sampling import reading_rows, sampled_by_vllm, sampling
from dimba.plan.share import Share, completion_length, memory_terms, precision_of, row_length
from dimba.plan.states import model_states, with_others
from dimba.plan.training import TrainingStep

# Of what comes and goes: blocks of torch's caching allocator that nothing fits in (PyTorch, CUDA semantics: memory
# management). Assumed as well.
_FRAGMENTED = 0.05

_SAVED_A_SECOND = 100e6  # bytes, to a slow disk
_STOP_AT_LEAST, _STOP_UNKNOWN = 60.0, 300.0


def stop_grace(memory: MemoryEstimate | None) -> float:
    """Seconds in which a job of this size ends its step and saves weights and optimiser."""
    if memory is None:
        return _STOP_UNKNOWN
    saved = (memory.adapter or memory.weights) + memory.optimizer
    return _STOP_AT_LEAST + saved / _SAVED_A_SECOND


def estimate_memory(
    job: ResolvedJob, checkpoint: CheckpointFacts, *, on_cpu: bool, share: Share | None = None
) -> MemoryEstimate | None:
    """Bytes of one process; None for a checkpoint not at hand, model states alone on the CPU or without a `share`.

    Where the model's shape is not known, what follows from it is left out and the estimate is a lower bound.
    """
    states = model_states(job, checkpoint, on_cpu=on_cpu, shards=share.shards if share else 1)
    if states is None or on_cpu or share is None:
        return states
    states = with_others(job, checkpoint, share, states)
    if checkpoint.shape is None:
        return _with_fragments(replace(states, peak="unknown: what the activations take is not known"))
    return _with_fragments(max(moments(job, checkpoint, share, states), key=lambda each: each.total))


def moments(
    job: ResolvedJob, checkpoint: CheckpointFacts, share: Share, states: MemoryEstimate
) -> Iterator[MemoryEstimate]:
    """The states and what is beside them, at each moment that may be the worst; the model's shape must be known."""
    assert checkpoint.shape is not None
    step = TrainingStep(job, checkpoint, checkpoint.shape, share)
    states = replace(states, offloaded=step.offloaded)
    yield from step.moments(states)
    if memory_terms(job, share).samples:
        cached = memory_terms(job, share).cached
        yield (_sampling if cached else _sampling_rows)(job, checkpoint.shape, share, states)
    if memory_terms(job, share).vllm:
        yield _sampling_by_vllm(job, checkpoint, checkpoint.shape, share, states)


def _sampling(job: ResolvedJob, shape: ModelShape, share: Share, states: MemoryEstimate) -> MemoryEstimate:
    """All completions of an optimiser step at once; gradients are not there yet."""
    precision, length = precision_of(job, share.mixed, shape), row_length(job, share)
    rows = Batch(rows=share.batch_size * share.accumulation, length=length, scored=0, masked=True)
    prompt = max(1, length - completion_length(job))
    cache, work = sampling(shape, rows, precision, prompt=prompt)
    return replace(
        states,
        peak="sampling",
        gradients=0,
        cache=cache,
        sampling=work,
        copies=activations.weight_copies(shape, precision),
    )


def _sampling_rows(job: ResolvedJob, shape: ModelShape, share: Share, states: MemoryEstimate) -> MemoryEstimate:
    """A batch's completions at once, whose rows each step reads as a whole."""
    precision, length = precision_of(job, share.mixed, shape), row_length(job, share)
    batch = Batch(rows=share.batch_size, length=length, scored=0, masked=True)
    work = reading_rows(shape, batch, precision, logits=2 if job.trainer_args.get(GUIDANCE.name) else 1)
    copies = activations.weight_copies(shape, precision)
    return replace(states, peak="sampling", gradients=0, sampling=work, copies=copies)


def _sampling_by_vllm(
    job: ResolvedJob, checkpoint: CheckpointFacts, shape: ModelShape, share: Share, states: MemoryEstimate
) -> MemoryEstimate:
    """vLLM awake, with weights of its own; gradients are not there yet."""
    rows = share.batch_size * share.accumulation
    # vLLM is given room for the longest row that is allowed, as the trainer does not look for the longest prompt.
    batch = Batch(rows=rows, length=job.max_length, scored=0, masked=True)
    needed = vllm_memory(sampled_by_vllm(shape, checkpoint.parameters or 0, batch))
    return replace(states, peak="vLLM awake", gradients=0, vllm=states.vllm + needed.total)


def _with_fragments(estimate: MemoryEstimate) -> MemoryEstimate:
    return replace(estimate, fragments=int(_FRAGMENTED * estimate.transient))
