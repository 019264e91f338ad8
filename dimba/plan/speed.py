"""The choices for speed of the project's own trainers, as far as they are known before loading the model."""

from dimba.common.errors import BadInput
from dimba.host.facts import CheckpointFacts, HostFacts
from dimba.options.speed_table import FLOAT8, FLOAT8_ADAPTER, FLOAT8_HINT
from dimba.plan.job import ResolvedJob
from dimba.plan.model import ActivationPlan

_ASKED = "as asked"


def speed_choices(
    job: ResolvedJob, base: CheckpointFacts, *, on_cpu: bool, mixed: str, activations: ActivationPlan
) -> tuple[str, ...]:
    """One sentence per choice."""
    precision = _precision(job, on_cpu=on_cpu, mixed=mixed)
    checkpointing = f"activation checkpointing: {activations.text}"
    if not job.objective.packs:
        return (precision, checkpointing)
    head = "the head computes tokens with loss only"
    return (precision, _packing(job, base, on_cpu=on_cpu), head, checkpointing)


def float8_problems(job: ResolvedJob, facts: HostFacts) -> list[BadInput]:
    """Why the project's own trainers refuse products in float8, as far as the spec tells."""
    if job.trainer_args.get(FLOAT8.name) is not True:
        return []
    key = f"trainer_args.{FLOAT8.name}"
    if job.method != "full":
        return [BadInput(FLOAT8_ADAPTER, FLOAT8_HINT, key=key)]
    if facts.image and facts.image.key is not None:
        hint = "set `container.image` to an image that has dimba's packages and torchao"
        return [BadInput("the image that dimba builds has no torchao", hint, key=key)]
    return []


def _precision(job: ResolvedJob, *, on_cpu: bool, mixed: str) -> str:
    asked = _given(job, "mixed-precision") or mixed
    written = _ASKED if _given(job, "mixed-precision") or job.accelerate.mixed_precision != "auto" else ""
    if asked == "no":
        return f"float32 ({written or 'the CPU; bf16 if asked for'})"
    if not on_cpu:
        return f"mixed {asked} ({written or 'the fastest of these GPUs'})"
    if not job.objective.bf16_on_cpu or asked == "fp16":
        return f"float32 ({asked} was asked for, and is not available on a CPU)"
    return f"mixed bf16 ({written}; float32 where the CPU has neither avx512_bf16 nor amx)"


def _packing(job: ResolvedJob, base: CheckpointFacts, *, on_cpu: bool) -> str:
    attention = _given(job, "attention")
    if not base.family.packs:
        return f"rows padded ({base.family.label} does not keep packed ones apart)"
    if _given(job, "packing") or (job.batch_size == 1 and attention not in ("documents", "varlen")):
        why = _ASKED if _given(job, "packing") else "a batch has one row"
        return f"rows padded ({why}), attention {attention or 'sdpa'}"
    default = "within documents (the CPU), else sdpa" if on_cpu else "the fastest exact one, measured once a card"
    return f"rows packed if the model is proved to keep them apart, attention {attention or default}"


def _given(job: ResolvedJob, flag: str) -> str:
    value = job.trainer_args.get(flag, "auto")
    return "" if value == "auto" else str(value)
