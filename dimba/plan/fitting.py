"""A job on its GPUs, and the batch size that `auto` comes to there. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dimba.host.facts import CheckpointFacts, Gpu, HostFacts
from dimba.host.trainer import own_trainer
from dimba.objectives.budgets import FILLED, nominal_gb, starting_point
from dimba.options.checkpointing import ALL, Checkpointing
from dimba.plan.job import ResolvedJob
from dimba.plan.memory import estimate_memory
from dimba.plan.model import MemoryEstimate
from dimba.plan.placement import precision
from dimba.plan.share import Share, completion_length
from dimba.plan.steps import generations_of, of_each

_GIB = 1 << 30
_MIB = 1 << 20
_DESKTOP = 0.75  # share of a GPU: with less free another job computes there, and this one waits for it
TRIED = 4096  # largest batch that is tried


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A job on its GPUs."""

    job: ResolvedJob
    checkpoint: CheckpointFacts
    gpus: tuple[Gpu, ...]
    processes: int
    longest: int | None
    ours: bool  # the trainer is one of the project's own
    compares: bool = False  # as in DataSummary
    shards: int = 1  # parts of the model, one per GPU
    checkpointing: Checkpointing = ALL  # if the spec leaves it open

    def estimate(self, job: ResolvedJob | None = None) -> MemoryEstimate | None:
        """The memory estimate of this job, or of `job` on the same GPUs."""
        job = job or self.job
        checkpoint = self.checkpoint if self.ours else replace(self.checkpoint, shape=None)
        batch_size, accumulation = of_each(job, self.processes)
        share = Share(
            batch_size=batch_size,
            accumulation=max(1, accumulation),
            processes=self.processes,
            shards=self.shards if _shards_as_well(job, self.job) else 1,
            mixed=precision(job, self.gpus),
            longest=self.longest,
            compares=self.compares,
            checkpointing=job.checkpointing or self.checkpointing,
            ranks_per_row=job.ranks_per_row,
            family=self.checkpoint.family,
        )
        return estimate_memory(job, checkpoint, on_cpu=not self.gpus, share=share)

    def least(self) -> MemoryEstimate | None:
        """The memory estimate for a batch of one row."""
        return self.estimate(_with_batch(self.job, 1, self.processes * (generations_of(self.job) or 1)))

    def of(self, job: ResolvedJob) -> "Fit":
        """`job` on the same GPUs."""
        return replace(self, job=job)

    def shared_by(self, shards: int) -> "Fit":
        """The same job with its model sharded over `shards` GPUs."""
        return replace(self, shards=shards)


def _shards_as_well(job: ResolvedJob, chosen_for: ResolvedJob) -> bool:
    """Whether `job` is sharded like `chosen_for`: only full fine-tuning is sharded without being asked."""
    asked = job.accelerate.strategy == "fsdp2" and job.method != "qlora"
    return asked or job.method == chosen_for.method


def fit_of(job: ResolvedJob, facts: HostFacts, gpus: tuple[Gpu, ...], processes: int) -> Fit:
    """The values that decide whether a job fits."""
    report = facts.data.report
    return Fit(
        job=job,
        checkpoint=facts.checkpoint,
        gpus=gpus,
        processes=processes,
        longest=_longest(job, report.longest) if report else None,
        ours=facts.trainer.path == own_trainer(job.mode, facts.project),
        compares=bool(facts.data.summary and facts.data.summary.compares),
    )


def _longest(job: ResolvedJob, longest: int) -> int:
    """Tokens of the longest row, with its completion where only prompts were counted."""
    return longest + completion_length(job)


def resolve_batch(fit: Fit) -> tuple[Fit, str]:
    """(the job with numbers in place of `batch_size: auto`, the reason); the same job if it has a number.

    The batch of an optimiser step is the table's for the mode and method, on any machine: accumulation makes up for
    what does not fit at once, and `grad_accumulation_steps` is not looked at.
    """
    if fit.job.batch_size is not None:
        return fit, ""
    size, method = budget_gb(fit), fit.job.method
    table = starting_point(size).batch[method]
    step = _whole_step(fit.job, table * fit.job.objective.start(size).accumulation[method], fit.processes)
    budget = card_room(fit)
    why = _why_not(fit, budget)
    if why or budget is None:
        batch = max(each for each in _divisors(step // fit.processes) if each <= table)
        return fit.of(_with_batch(fit.job, batch, step)), f"batch_size auto: {batch}, by the table: {why}"
    tried = ((each, fit.estimate(_with_batch(fit.job, each, step))) for each in _divisors(step // fit.processes))
    fitting = [(each, found.total) for each, found in tried if found and found.total <= FILLED * budget]
    if not fitting:
        why = f"batch_size auto: 1, which leaves less than a tenth of {budget / _GIB:.1f} GiB free"
        return fit.of(_with_batch(fit.job, 1, step)), why
    batch, total = fitting[-1]
    most = " (the whole effective batch)" if batch == step // fit.processes else ""
    room = f"{total / _GIB:.1f} of {budget / _GIB:.1f} GiB, a tenth is left free"
    return fit.of(_with_batch(fit.job, batch, step)), f"batch_size auto: {batch}{most}, the largest that fits: {room}"


def is_known(fit: Fit) -> bool:
    """Whether `auto` can be resolved by the estimate instead of the table."""
    return not _why_not(fit, card_room(fit))


def _why_not(fit: Fit, budget: int | None) -> str:
    if not fit.gpus:
        return "on the CPU"
    if not fit.ours:
        return "the memory of a custom trainer is not known"
    if fit.checkpoint.shape is None or fit.checkpoint.parameters is None:
        return "the model's shape is not known here"
    return "" if budget else "the memory of the GPUs is not known"


def _whole_step(job: ResolvedJob, rows: int, processes: int) -> int:
    """The effective batch, rounded up so that processes share it evenly in complete groups."""
    unit = math.lcm(processes, generations_of(job) or 1)
    return math.ceil(rows / unit) * unit


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, min(number, TRIED) + 1) if number % each == 0]


def _with_batch(job: ResolvedJob, batch: int, step: int) -> ResolvedJob:
    return job.with_batch(batch, step // batch)


def budget_gb(fit: Fit) -> float | None:
    """The GPU's nominal size in GB; None if it is not known."""
    sizes = [nominal_gb(gpu.memory_mib) for gpu in fit.gpus if gpu.memory_mib]
    return min(sizes) if sizes and len(sizes) == len(fit.gpus) else fit.job.spec.resources.vram_gb


def card_room(fit: Fit) -> int | None:
    """Free bytes of the smallest GPU if known, else those of `resources.vram_gb`."""
    if known := [_free(gpu) for gpu in fit.gpus if gpu.memory_mib]:
        return min(known)
    said = fit.job.spec.resources.vram_gb
    return int(said * _GIB) if said else None


def _free(gpu: Gpu) -> int:
    whole = gpu.memory_mib or 0
    free = gpu.free_mib
    return (free if free is not None and free >= _DESKTOP * whole else whole) * _MIB


def smallest_card(gpus: Sequence[Gpu]) -> int | None:
    """Bytes of the smallest GPU; None if not known."""
    cards = [gpu.memory_mib for gpu in gpus if gpu.memory_mib]
    return min(cards) * _MIB if cards else None
