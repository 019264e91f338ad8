"""Share: what one process has of a job, and the rows, lengths and precision that follow from it. Pure."""

from dataclasses import dataclass

from dimba.host.facts import ModelShape
from dimba.objectives.families import CAUSAL
from dimba.objectives.family import Family
from dimba.objectives.objective import MemoryTerms
from dimba.options.checkpointing import ALL, Checkpointing
from dimba.plan.activations import FLOAT32, HALF, Batch, Precision
from dimba.plan.adapter_terms import trained_ends
from dimba.plan.job import ResolvedJob


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
    ranks_per_row: int = 1  # processes that share each row
    checkpointing: Checkpointing = ALL
    family: Family = CAUSAL


def memory_terms(job: ResolvedJob, share: Share) -> MemoryTerms:
    """What the objective adds to the estimate, for the base's family."""
    return share.family.memory(job.objective.memory(job.trainer_args, share.compares))


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


def training_batch(job: ResolvedJob, share: Share) -> Batch:
    """The largest forward pass that is trained: rows as long as the longest may be, or this process' part of them."""
    terms, length = memory_terms(job, share), -(-row_length(job, share) // share.ranks_per_row)
    rows = share.batch_size * terms.sequences
    scored = rows * min(terms.completion or length, length)
    masked = (terms.masked or rows > 1) and share.ranks_per_row == 1
    return Batch(rows=rows, length=length, scored=scored, masked=masked, tiled=terms.tiled)


def row_length(job: ResolvedJob, share: Share) -> int:
    """Tokens of the longest row that is trained."""
    most = job.max_length
    return max(1, min(most, share.longest)) if share.longest else most


def completion_length(job: ResolvedJob) -> int:
    """Tokens that are sampled behind a prompt at most; 0 where nothing is sampled."""
    return job.objective.memory(job.trainer_args, False).completion or 0
