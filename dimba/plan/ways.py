"""The refusal of a job that does not fit its GPUs, with the smallest changes that make it fit. Pure."""

from dataclasses import replace

from dimba.common.errors import HostCannot
from dimba.objectives.samplers import TRANSFORMERS
from dimba.options.checkpointing import ALL, OFFLOADED
from dimba.options.grpo_table import SAMPLER, USE_VLLM
from dimba.options.optimiser_table import OPTIMIZER
from dimba.plan.fitting import TRIED, Fit, smallest_card
from dimba.plan.job import RECOMPUTE, ResolvedJob
from dimba.plan.share import completion_length

_GIB = 1 << 30
_SHORTEST = 64  # tokens


def memory_problems(fit: Fit) -> list[HostCannot]:
    """The refusal of a job that cannot fit its GPUs, with changes that fit; none if their memory is not known."""
    card = smallest_card(fit.gpus)
    if card is None or not fit.ours or not fit.job.spec.resources.memory_check:
        return []
    needed = fit.estimate()
    if needed is None or needed.total <= card:
        return []
    least = "at least " if needed.lower_bound else ""
    what = f"it needs {least}{needed.total / _GIB:.1f} GiB of GPU memory, and a GPU has {card / _GIB:.1f}"
    peak = "" if needed.lower_bound else f" (peak: {needed.peak})"
    ways = [f"{change} ({total / _GIB:.1f} GiB)" for change, total in _ways(fit, card)]
    hint = f"these changes fit: {'; or '.join(ways)}" if ways else "no smaller job of this base fits: use a larger GPU"
    return [HostCannot(f"memory: {what}{peak}", f"{hint}. `--set resources.memory_check=false` starts it anyway")]


def _ways(fit: Fit, card: int) -> list[tuple[str, int]]:
    """(`--set …`, bytes) of each single change that makes the job fit; else of several changes at once."""
    ways = [found for way in _WAYS if (found := way(fit, fit.job, card, ""))]
    smaller = _METHODS[_METHODS.index(fit.job.method) + 1 :]
    return ways + [found for method in smaller if (found := _by_method(fit, method, card))]


def _by_method(fit: Fit, method: str, card: int) -> tuple[str, int] | None:
    """A method that needs less memory, with the changes that it needs as well."""
    job, said = replace(fit.job, method=method), f"--set method={method}"
    sampler = job.objective.sampler(job.trainer_args)
    if sampler and sampler.refusal(method, on_cpu=False, is_sharded=False):
        return None
    found = fit.estimate(job)
    if found and found.total <= card:
        return f"`{said}`", found.total
    return next((changed for way in _WAYS if (changed := way(fit, job, card, f"{said} "))), None)


def _recomputed(fit: Fit, job: ResolvedJob, card: int, said: str) -> tuple[str, int] | None:
    """Activation checkpointing of all layers, if the spec asks for less; then with their inputs in host memory."""
    for chosen in (ALL, OFFLOADED):
        found = fit.estimate(job.with_checkpointing(chosen)) if job.checkpointing != chosen else None
        if found and found.total <= card:
            return f"`{said}--set trainer_args.{RECOMPUTE}={chosen.value}`", found.total
    return None


def _without_vllm(fit: Fit, job: ResolvedJob, card: int, said: str) -> tuple[str, int] | None:
    """transformers as the sampler, which needs no second copy of the weights."""
    sampler = job.objective.sampler(job.trainer_args)
    if sampler is None or not sampler.is_vllm or sampler.is_served:
        return None
    others = {**job.trainer_args, SAMPLER.name: TRANSFORMERS, USE_VLLM.name: False}
    found = fit.estimate(job.with_args(others))
    by_alias = sampler.flag == USE_VLLM.flag
    written = f"{USE_VLLM.name}=false" if by_alias else f"{SAMPLER.name}={TRANSFORMERS}"
    return (f"`{said}--set trainer_args.{written}`", found.total) if found and found.total <= card else None


def _smaller_moments(fit: Fit, job: ResolvedJob, card: int, said: str) -> tuple[str, int] | None:
    """AdamW with moments of 8 bits, in full fine-tuning with AdamW; bitsandbytes has none for a sharded model."""
    training = job.spec.training
    if job.method != "full" or fit.shards > 1 or training.optimizer not in _ADAMW:
        return None
    smaller = job.spec.model_copy(update={"training": training.model_copy(update={"optimizer": _SMALLER})})
    found = fit.estimate(replace(job, spec=smaller))
    return (f"`{said}--set {OPTIMIZER.key}={_SMALLER}`", found.total) if found and found.total <= card else None


def _less_at_once(fit: Fit, job: ResolvedJob, card: int, said: str) -> tuple[str, int] | None:
    """A smaller batch with the same effective batch."""
    step = job.rows * job.accumulation
    for batch in range(min(job.rows - 1, TRIED), 0, -1):
        if step % batch or (step // batch) % fit.processes:
            continue
        found = fit.estimate(job.with_batch(batch, step // batch))
        if found and found.total <= card:
            accumulation = f"--set training.grad_accumulation_steps={step // batch}"
            return f"`{said}--set training.batch_size={batch} {accumulation}`", found.total
    return None


def _fewer_a_step(fit: Fit, job: ResolvedJob, card: int, said: str) -> tuple[str, int] | None:
    """Fewer completions per step, as GRPO samples all of them at once."""
    if not completion_length(job):
        return None
    for accumulation in range(min(job.accumulation - 1, TRIED), 0, -1):
        changed = replace(job, accumulation=accumulation)
        whole, _ = job.objective.batches.complete(accumulation, batch_size=job.rows, args=job.trainer_args)
        found = fit.estimate(changed) if whole == accumulation and accumulation % fit.processes == 0 else None
        if found and found.total <= card:
            return f"`{said}--set training.grad_accumulation_steps={accumulation}`", found.total
    return None


def _shorter(fit: Fit, job: ResolvedJob, card: int, said: str) -> tuple[str, int] | None:
    """Shorter rows: the longest that fit, in steps of 64 tokens."""
    longest = min(job.max_length, fit.longest or job.max_length)
    least = _SHORTEST + completion_length(job)
    lengths = range((longest - 1) // _SHORTEST * _SHORTEST, least - 1, -_SHORTEST)
    fits = {}
    low, high = 0, len(lengths) - 1
    while low <= high:  # a longer row never needs less
        middle = (low + high) // 2
        changed = replace(job, max_length=lengths[middle])
        found = replace(fit, longest=None).estimate(changed)
        if found and found.total <= card:
            fits[middle] = found.total
            high = middle - 1
        else:
            low = middle + 1
    if not fits:
        return None
    best = min(fits)
    return f"`{said}--set training.max_length={lengths[best]}`", fits[best]


_METHODS = ("full", "lora", "qlora")  # by memory, largest first
_ADAMW, _SMALLER = ("adamw_torch_fused", "adamw_torch"), "adamw_8bit"
_WAYS = (_without_vllm, _recomputed, _smaller_moments, _less_at_once, _fewer_a_step, _shorter)
