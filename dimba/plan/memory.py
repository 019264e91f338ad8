"""The memory estimate: the peak of one GPU, from config.json and the headers of the weights alone. Pure.

States, activations (`dimba.plan.activations`) and what CUDA takes are summed at each moment of a step at which they may
be most; the estimate is the moment that is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dimba.host.facts import CheckpointFacts, ModelShape
from dimba.objectives.objective import MemoryTerms
from dimba.options.optimiser_table import OPTIMIZERS
from dimba.plan import activations
from dimba.plan.activations import FLOAT32, HALF, Batch, Precision
from dimba.plan.adapter import adapter_parameters, copied_parameters
from dimba.plan.adapter_terms import adapter_terms, trained_ends, trains_rows
from dimba.plan.job import ResolvedJob
from dimba.plan.model import MemoryEstimate
from dimba.plan.sampling import sampling

# nf4 with double quantisation: 4 bits, and 0.127 for the scales of blocks of 64 (QLoRA, arXiv:2305.14314, section 3).
_NF4 = 4.127 / 8
_MIB = 1 << 20
# Assumed, not measured: the driver's context with torch's kernels and cuBLAS' workspaces, and NCCL's buffers beside it
# (NVIDIA, NCCL's documentation: NCCL_BUFFSIZE, 4 MiB a channel and peer).
_CONTEXT, _NCCL = 640 * _MIB, 384 * _MIB
# Of what comes and goes: blocks of torch's caching allocator that nothing fits in (PyTorch, CUDA semantics: memory
# management). Assumed as well.
_FRAGMENTED = 0.05

_SAVED_A_SECOND = 100e6  # bytes, to a slow disk
_STOP_AT_LEAST, _STOP_UNKNOWN = 60.0, 300.0


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one process has of a job: its batches, and how much of the model."""

    batch_size: int
    accumulation: int  # batches of a process an optimiser step
    processes: int = 1
    shards: int = 1  # processes that a model is divided among; 1 where each holds it whole
    mixed: str = "bf16"
    longest: int | None = None  # tokens of the longest row, where they were counted
    compares: bool = False  # the data: `reward: auto` comes to a reward model
    recomputes: bool = True  # activations, a layer at a time; else all of them are kept


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
    states = _states(job, checkpoint, on_cpu=on_cpu, shards=share.shards if share else 1)
    if states is None or on_cpu or share is None:
        return states
    states = _with_others(job, checkpoint, share, states)
    if checkpoint.shape is None:
        return _with_fragments(replace(states, peak="unknown: what the activations take is not known"))
    return _with_fragments(max(moments(job, checkpoint, share, states), key=lambda each: each.total))


def moments(
    job: ResolvedJob, checkpoint: CheckpointFacts, share: Share, states: MemoryEstimate
) -> Iterator[MemoryEstimate]:
    """The states and what is beside them, at each moment that may be the worst; the model's shape must be known."""
    assert checkpoint.shape is not None
    yield from _training(job, checkpoint, checkpoint.shape, share, states)
    if _terms(job, share).samples:
        yield _sampling(job, checkpoint.shape, share, states)


def _states(job: ResolvedJob, checkpoint: CheckpointFacts, *, on_cpu: bool, shards: int) -> MemoryEstimate | None:
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


def _with_others(job: ResolvedJob, checkpoint: CheckpointFacts, share: Share, states: MemoryEstimate) -> MemoryEstimate:
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
    terms = _terms(job, share)
    if job.method != "full" or not terms.reference:
        return 0
    return _base(job, checkpoint, on_cpu=False, trained=not terms.half_reference)


def _reward(job: ResolvedJob, checkpoint: CheckpointFacts, share: Share) -> int:
    """The reward model: the base once more, frozen, with an adapter of its own."""
    return _base(job, checkpoint, on_cpu=False, trained=False) if _terms(job, share).reward_model else 0


def _terms(job: ResolvedJob, share: Share) -> MemoryTerms:
    return job.objective.memory(job.trainer_args, share.compares)


def precision_of(job: ResolvedJob, mixed: str, shape: ModelShape) -> Precision:
    """Which numbers meet in which type, as the trainers load the model."""
    full, packed = job.method == "full", job.method == "qlora"
    head, embedding = trained_ends(job, shape)
    # A matrix in nf4 gives what it is given, and LayerNorm float32 under autocast.
    wide = packed and shape.layer_norms
    return Precision(
        compute=FLOAT32 if full and mixed == "no" else HALF,
        stream=FLOAT32 if embedding or wide else HALF,
        trains_base=full,
        packed=packed,
        wide=wide,
        trains_head=head,
        trains_embedding=embedding,
    )


def _training(
    job: ResolvedJob, checkpoint: CheckpointFacts, shape: ModelShape, share: Share, states: MemoryEstimate
) -> Iterator[MemoryEstimate]:
    """A forward pass, and the way back through it."""
    precision, batch = precision_of(job, share.mixed, shape), training_batch(job, share)
    accumulated = share.accumulation > 1  # gradients of batches before are there already
    ended = replace(
        states,
        gradients=states.gradients if accumulated else 0,
        inputs=_kept(job, checkpoint, shape, share) * shape.layers,
        mask=activations.mask(batch),
        copies=_copies(job, checkpoint, shape, share),
    )
    rows = shape.vocabulary * shape.hidden * trains_rows(job, checkpoint)
    head = activations.head(shape, batch, precision) + rows * HALF
    yield replace(ended, peak="the end of the forward pass", head=head)
    if norms := adapter_terms(job, checkpoint, shape).norms:
        yield replace(ended, peak="the norm of a matrix", layer=norms)
    # Without activation checkpointing, copies stay until the backward pass has used them; a mask has become numbers.
    returning = replace(ended, copies=0) if share.recomputes else replace(ended, mask=0)
    head = activations.head_backward(shape, batch, precision) + rows * (FLOAT32 + 2 * HALF)
    yield replace(returning, peak="the head's gradients", head=head)
    yield from _layers(job, checkpoint, share, replace(returning, peak="a layer's gradients"), states.gradients)
    if precision.trains_embedding:
        last = activations.kept_inputs(shape, batch, precision) // shape.layers
        embedding = activations.embedding_backward(shape, kept=accumulated)
        yield replace(states, peak="the embedding's gradients", inputs=last, head=embedding)


def _layers(
    job: ResolvedJob, checkpoint: CheckpointFacts, share: Share, returning: MemoryEstimate, gradients: int
) -> Iterator[MemoryEstimate]:
    """The last layer, behind which all is kept, and the first, at which all `gradients` are there."""
    shape = checkpoint.shape
    assert shape is not None
    precision, batch = precision_of(job, share.mixed, shape), training_batch(job, share)
    accumulated = share.accumulation > 1
    vocabulary = shape.vocabulary * shape.hidden * FLOAT32 * precision.trains_head
    adapter = adapter_terms(job, checkpoint, shape)
    layer = activations.largest_layer(shape, batch, precision, adapter, new_gradients=accumulated)
    own = returning.inputs // shape.layers
    yield replace(
        returning,
        layer=layer,
        inputs=returning.inputs - (0 if share.recomputes else own),  # what is in `layer` as well
        copies=returning.copies - returning.copies // shape.layers,
        head=vocabulary if shape.tied or not accumulated else 0,
    )
    last = replace(returning, layer=layer, gradients=gradients, copies=0)
    waiting = vocabulary if shape.tied and accumulated else 0
    yield replace(last, inputs=own if share.recomputes else 0, head=waiting)


def _kept(job: ResolvedJob, checkpoint: CheckpointFacts, shape: ModelShape, share: Share) -> int:
    """What is kept of each layer until its backward pass."""
    precision, batch = precision_of(job, share.mixed, shape), training_batch(job, share)
    if share.recomputes:
        return activations.kept_inputs(shape, batch, precision) // shape.layers
    return activations.saved(shape, batch, precision, adapter_terms(job, checkpoint, shape))


def _copies(job: ResolvedJob, checkpoint: CheckpointFacts, shape: ModelShape, share: Share) -> int:
    """Of all matrices that are trained, as the forward pass ends; a sharded model is gathered in that type."""
    precision = precision_of(job, share.mixed, shape)
    if share.shards > 1:
        return 0
    copied = HALF * copied_parameters(job, checkpoint)
    return activations.weight_copies(shape, precision) if precision.trains_base else copied


def training_batch(job: ResolvedJob, share: Share) -> Batch:
    """The largest forward pass that is trained: rows as long as the longest may be."""
    terms, length = _terms(job, share), _length(job, share)
    rows = share.batch_size * terms.sequences
    scored = rows * min(terms.completion or length, length)
    return Batch(rows=rows, length=length, scored=scored, masked=terms.masked or rows > 1)


def _length(job: ResolvedJob, share: Share) -> int:
    most = job.max_length
    return max(1, min(most, share.longest)) if share.longest else most


def completion_length(job: ResolvedJob) -> int:
    """Tokens that are sampled behind a prompt at most; 0 where nothing is sampled."""
    return job.objective.memory(job.trainer_args, False).completion or 0


def _sampling(job: ResolvedJob, shape: ModelShape, share: Share, states: MemoryEstimate) -> MemoryEstimate:
    """All completions of an optimiser step at once; gradients are not there yet."""
    precision, length = precision_of(job, share.mixed, shape), _length(job, share)
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


def _with_fragments(estimate: MemoryEstimate) -> MemoryEstimate:
    return replace(estimate, fragments=int(_FRAGMENTED * estimate.transient))
