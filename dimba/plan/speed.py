"""What our trainers choose for speed, and why, as far as it is known before the model is loaded."""

from dimba.plan.job import RECOMPUTE, ResolvedJob

_ASKED = "as asked"


def speed_choices(job: ResolvedJob, *, on_cpu: bool, mixed: str, activations: str = "") -> tuple[str, ...]:
    """A sentence each; `activations` is why they are kept or not, where memory decided it."""
    precision = _precision(job, on_cpu=on_cpu, mixed=mixed)
    checkpointing = _checkpointing(job, on_cpu=on_cpu, memory=activations)
    if not job.objective.packs:
        return (precision, checkpointing)
    head = "the head over tokens with loss alone"
    return (precision, _packing(job, on_cpu=on_cpu), head, checkpointing)


def _precision(job: ResolvedJob, *, on_cpu: bool, mixed: str) -> str:
    asked = _given(job, "mixed-precision") or mixed
    written = _ASKED if _given(job, "mixed-precision") or job.accelerate.mixed_precision != "auto" else ""
    if asked == "no":
        return f"float32 ({written or 'the CPU; bf16 where it is asked for'})"
    if not on_cpu:
        return f"mixed {asked} ({written or 'what the cards compute best in'})"
    if not job.objective.bf16_on_cpu or asked == "fp16":
        return f"float32 ({asked} was asked for, which this does not train in on a CPU)"
    return f"mixed bf16 ({written}; float32 where the CPU has neither avx512_bf16 nor amx)"


def _packing(job: ResolvedJob, *, on_cpu: bool) -> str:
    attention = _given(job, "attention")
    if _given(job, "packing") or (job.batch_size == 1 and attention != "documents"):
        return (
            f"rows padded ({_ASKED if _given(job, 'packing') else 'one is a batch'}), attention {attention or 'sdpa'}"
        )
    default = "within each (the CPU), else sdpa" if on_cpu else "sdpa"
    return f"rows end to end where the model is proved to keep them apart, attention {attention or default}"


def _checkpointing(job: ResolvedJob, *, on_cpu: bool, memory: str) -> str:
    asked = _given(job, RECOMPUTE)
    if not (asked or on_cpu or memory):
        return "activations kept, if a first step shows that they fit"
    why = memory or (_ASKED if asked else "a CPU has memory")
    return f"activations {'computed again' if asked == 'on' else 'kept'} ({why})"


def _given(job: ResolvedJob, flag: str) -> str:
    value = job.trainer_args.get(flag, "auto")
    return "" if value == "auto" else str(value)
