"""The kernels of a step on CUDA: the model's own, Liger's, or its layers compiled; the quickest that train alike."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch

from dimba.common.errors import BadInput
from dimba.options.speed_table import FLOAT8
from dimba.trainers.kernels.blocks import CompiledBlocks
from dimba.trainers.kernels.float8 import use_float8
from dimba.trainers.kernels.liger import LigerKernels, NoKernels
from dimba.trainers.kernels.proof import Kernels, Proof, prove
from dimba.trainers.kernels.step_time import OWN, Job, step_times
from dimba.trainers.kernels.timings import Timings, decided_by_first_rank
from dimba.trainers.models.memory import meter_of
from dimba.trainers.models.sharding import is_sharded
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LIGER, COMPILED = "liger", "compiled"
_COMPILATION = 60.0  # seconds of a layer's two passes; a kept compilation takes less
_GAIN = 0.1  # share of a step that compiling is expected to save before it is measured
_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MAKERS: dict[str, Callable[[PreTrainedModel], Kernels]] = {LIGER: LigerKernels, COMPILED: CompiledBlocks}


def use_quickest_kernels(job: Job) -> None:
    """Switches the model to the kernels of `choose_kernels`, and prints the choice of a job on CUDA."""
    words = choose_kernels(job)
    if getattr(job.options, FLOAT8.name, False):  # after the kernels: they are proved more strictly in full precision
        words += f"\n{use_float8(job)}"
    if meter := meter_of(job.trainer.args.device):
        meter.reset_peak()  # measuring and proving are no part of the job's peak
    if _is_on_cuda(job) and is_main_process():
        print(words, flush=True)


def _is_on_cuda(job: Job) -> bool:
    return job.trainer.args.device.type == "cuda"


def choose_kernels(job: Job) -> str:
    """Switches the model to its quickest kernels that are proved to train alike; returns the choice in words.

    Raises:
        BadInput: kernels that the options ask for cannot be used.
    """
    problems = {name: why for name in _MAKERS if (why := _why_not(job, name))}
    candidates = {name: found for name in _MAKERS if name not in problems and (found := _made(job, name, problems))}
    if asked := _asked(job):
        return _as_asked(job, asked, candidates, problems)
    ready = {name: each for name, each in candidates.items() if name != COMPILED}
    timings = step_times(job, ready) if candidates else Timings({})
    if COMPILED in candidates and not problems.setdefault(COMPILED, _too_short(job, _least(timings))):
        timings = _with_compiled(job, candidates, timings, problems)
    for name in sorted(timings.seconds, key=lambda each: timings.seconds[each]):
        proof = None if name == OWN else _proof(job, candidates[name])
        if proof is None or proof.is_equal:
            candidates.get(name, _NONE).use()
            return _words(name, timings, proof, problems | timings.problems)
        problems[name] = proof.reason
    return _words(OWN, timings, None, problems | timings.problems)


def _asked(job: Job) -> str:
    """The kernels that the options ask for; empty if the quickest are wanted."""
    compiled, liger = job.options.compile == "on", job.options.kernels == LIGER
    if compiled and liger:
        raise BadInput("compiled layers have kernels of their own", "leave out `--kernels liger`", key="--compile on")
    return COMPILED if compiled else LIGER if liger else ""


def _why_not(job: Job, name: str) -> str:
    """Why these kernels are no candidates; empty if they are."""
    if not _is_on_cuda(job):
        return "it is for CUDA"
    if is_sharded():
        return "the model is sharded"
    if job.options.ranks_per_row > 1:  # one rank alone would wait for the others in attention
        return "ranks share each row"
    if name == LIGER:
        return "as asked" if job.options.kernels == OWN else ""
    return "as asked" if job.options.compile == "off" else "the job samples as well" if job.samples else ""


def _made(job: Job, name: str, problems: dict[str, str]) -> Kernels | None:
    try:
        return _MAKERS[name](job.base)
    except NoKernels as error:
        problems[name] = str(error)
    except Exception as error:  # liger-kernel may not fit this version of transformers
        problems[name] = f"{type(error).__name__}: {error}"[:200]
    return None


def _as_asked(job: Job, name: str, candidates: dict[str, Kernels], problems: dict[str, str]) -> str:
    proof = _proof(job, candidates[name]) if name in candidates else None
    if proof is None or not proof.is_equal:
        flag = "--compile on" if name == COMPILED else "--kernels liger"
        reason = proof.reason if proof else problems[name]
        raise BadInput(reason, f"leave out `{flag}`: the quickest kernels that can be used are the default", key=flag)
    candidates[name].use()
    return f"kernels: {name} (as asked; {proof.reason})"


def _too_short(job: Job, seconds: float) -> str:
    """Why compiling cannot pay; empty if it may."""
    return "" if job.passes * seconds * _GAIN >= _COMPILATION else "the job is too short to pay for it"


def _least(timings: Timings) -> float:
    return min(timings.seconds.values(), default=0.0)


def _with_compiled(job: Job, candidates: dict[str, Kernels], timings: Timings, problems: dict[str, str]) -> Timings:
    """The times with that of compiled layers, if they save more of the job than compiling takes."""
    found = step_times(job, {COMPILED: candidates[COMPILED]})
    seconds = found.seconds.get(COMPILED)
    saved = job.passes * (_least(timings) - seconds) if seconds else 0.0
    if seconds is None or saved < _COMPILATION:
        problems[COMPILED] = found.problems.get(COMPILED, f"it would save {max(0.0, saved):.0f} s of the job")
        return timings
    return Timings({**timings.seconds, COMPILED: seconds}, timings.problems, timings.is_cached and found.is_cached)


def _proof(job: Job, kernels: Kernels) -> Proof:
    return decided_by_first_rank(partial(_proof_here, job, kernels))


def _proof_here(job: Job, kernels: Kernels) -> Proof:
    """The proof in the job's precision, and before it in float32 if all weights have it: that one is stricter."""
    model, precision = job.trainer.model, _PRECISIONS.get(job.mixed, torch.float32)
    if precision != torch.float32 and {each.dtype for each in model.parameters()} == {torch.float32}:
        proof = prove(model, kernels, torch.float32, nullcontext)
        if not proof.is_equal:
            return proof
    return prove(model, kernels, precision, job.trainer.accelerator.autocast)


def _words(name: str, timings: Timings, proof: Proof | None, problems: dict[str, str]) -> str:
    seconds = ", ".join(f"{each} {value:.4g} s" for each, value in timings.seconds.items())
    parts = [f"{seconds} a pass" + (", measured before" if timings.is_cached else "")] if seconds else []
    parts += [proof.reason] if proof else []
    parts += [f"not {each}: {why}" for each, why in problems.items() if each != name and why]
    return f"kernels: {name}" + (f" ({'; '.join(parts)})" if parts else "")


class _Own:
    """The model's own kernels, which are in place."""

    name = OWN

    def use(self) -> None:
        """Does nothing."""

    leave = use


_NONE = _Own()
