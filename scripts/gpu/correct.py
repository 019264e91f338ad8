"""Whether training on the device is right: losses, saved models, resumed runs."""

import math
from dataclasses import dataclass

from dimba.common.checkpoints import complete_checkpoints, step_of
from scripts.gpu.context import Context, Found
from scripts.gpu.jobs import METHODS, STEPS, distance, learning, losses, on_masked_base, reference, train
from scripts.gpu.results import FAILED, RIGHT, WRONG, Result

_MOST = 0.01  # of the float32 losses on the CPU, in bf16 and fp16
_MOST_QLORA = 0.1  # 4 bits are other weights
_MOST_RESUMED = 0.01


def sft(context: Context) -> Found:
    """SFT in every method and precision, against float32 on the CPU."""
    yield from _trained(context, _of("sft"), compares=True)


def dpo(context: Context) -> Found:
    """The same for DPO."""
    yield from _trained(context, _of("dpo"), compares=True)


def grpo(context: Context) -> Found:
    """GRPO: a GPU draws other completions than a CPU, so the losses are not compared."""
    yield from _trained(context, _of("grpo"), compares=False)


def precisions(context: Context) -> tuple[str, ...]:
    """bf16 and fp16; on the CPU bf16, where it has that, else the trainer takes float32."""
    return ("bf16", "fp16") if context.device == "cuda" else ("bf16",)


def masked(context: Context) -> Found:
    """SFT of masked-diffusion bases: all methods for each model type, one method each if tiny."""
    for model_type, method in {"dimba": "full", "llada": "lora", "Dream": "qlora"}.items():
        job, methods = Job(model_type, "sft", on_masked_base(context, model_type)), (method,)
        yield from _trained(context, job, methods if context.tiny else tuple(METHODS), compares=True)


@dataclass(frozen=True)
class Job:
    """What is trained: a mode, with further flags, under a name of its own."""

    name: str
    mode: str
    flags: tuple[str, ...] = ()


def _of(mode: str) -> Job:
    return Job(mode, mode)


def _trained(context: Context, job: Job, methods: tuple[str, ...] = tuple(METHODS), *, compares: bool) -> Found:
    for method in methods:
        adapter = "lora" if method == "qlora" else method
        expected = reference(context, job.mode, adapter, job.name, *job.flags) if compares else []
        for precision in precisions(context):
            yield _one(context, job, method, precision, expected)
    for method in methods[-1:] if context.tiny else methods:
        yield _resumed(context, job, method, precisions(context)[0])


def _one(context: Context, job: Job, method: str, precision: str, expected: list[float]) -> Result:
    case, out = _case(job, f"{method} {precision}"), context.folder / f"{job.name}-{method}-{precision}"
    if status := train(context, job.mode, out, *METHODS[method], *job.flags, precision=precision):
        return context.result(case, FAILED, f"exit status {status}")
    found, seen = losses(out), learning(out)
    away = distance(found, expected) if expected else 0.0
    right = len(found) == STEPS and all(map(math.isfinite, found)) and seen["saved_model"] == "equal"
    right = right and away <= (_MOST_QLORA if method == "qlora" else _MOST)
    measured = {"away": away, "first": found[0], "last": found[-1], "learned": seen["learned"]}
    return context.result(case, RIGHT if right else WRONG, f"saved model {seen['saved_model']}", **measured)


def _case(job: Job, what: str) -> str:
    return what if job.name == job.mode else f"{job.name} {what}"


def _resumed(context: Context, job: Job, method: str, precision: str) -> Result:
    """The second half of a run, from its checkpoint."""
    complete, part = (context.folder / f"{job.name}-{method}-{name}" for name in (precision, "resumed"))
    checkpoints = [each for each in complete_checkpoints(complete) if step_of(each) < STEPS]
    case = _case(job, f"{method} resumed")
    if not checkpoints:
        return context.result(case, FAILED, "no checkpoint")
    more = (*METHODS[method], *job.flags, "--resume-from-checkpoint", str(checkpoints[0]))
    if status := train(context, job.mode, part, *more, precision=precision):
        return context.result(case, FAILED, f"exit status {status}")
    found = losses(part)
    away = distance(found, losses(complete)[-len(found) :])
    return context.result(case, RIGHT if away <= _MOST_RESUMED else WRONG, away=away)
