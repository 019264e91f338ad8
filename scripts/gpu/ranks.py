"""Whether several ranks train as one does: two on one card over gloo, and one on each of two cards over NCCL.

Each with rows of its own, and with rows that they share.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from dimba.common.checkpoints import complete_checkpoints, step_of
from dimba.common.contract import ENV_BACKEND, LEARNING_FILE
from dimba.objectives.registry import OBJECTIVES
from dimba.plan.placement import job_argv
from dimba.plan.strategy import Strategy
from scripts.gpu.context import Context, Found
from scripts.gpu.jobs import METHODS, STEPS, distance, flags, learning, losses, reference, script, train
from scripts.gpu.results import ABSENT, FAILED, RIGHT, WRONG, Result

_MOST = {"no": 1e-3, "bf16": 0.01}  # of the losses of one rank
_MOST_RESUMED = 0.01
_SHARED = ("--sequence-parallel", "2")
_HALF = ("--grad-accumulation-steps", "1")  # two ranks then have the effective batch of one


def one_card(context: Context) -> Found:
    """Two ranks on one card over gloo, in float32, against one rank."""
    for method in ("full",) if context.tiny else ("full", "lora"):
        out = context.folder / f"one-card-{method}"
        status = _on_one_card(context, flags(context, "sft", out, *METHODS[method], *_HALF))
        yield _compared(context, f"{method} no", out, status, (_one_rank(context, method, "no"), _MOST["no"]))


def _on_one_card(context: Context, arguments: list[str]) -> int:
    """The exit status of two ranks, each the first of a node of its own: both take the first card."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, script("sft"), *arguments]
    ranks = [subprocess.Popen(command, env=_rank(context, number, port)) for number in range(2)]
    return max(each.wait() for each in ranks)


def _rank(context: Context, number: int, port: int) -> dict[str, str]:
    ours = {"RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    connected = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), ENV_BACKEND: "gloo"}
    return {**os.environ, **ours, **connected, "ACCELERATE_MIXED_PRECISION": "no", **_device(context, cards="0")}


def _device(context: Context, *, cards: str) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": cards} if context.device == "cuda" else {"ACCELERATE_USE_CPU": "true"}


def two_cards(context: Context) -> Found:
    """One rank on each of two cards, started by the command of a launch; on the CPU two ranks over gloo."""
    if context.device == "cuda" and torch.cuda.device_count() < 2:
        yield context.result("all", ABSENT, f"{torch.cuda.device_count()} GPU here")
        return
    yield from _launched(context, "ddp", "lora")
    if context.device == "cpu":
        yield context.result("fsdp2", ABSENT, "accelerate does not shard on a CPU")
        return
    yield from (result for method in ("full", "lora") for result in _launched(context, "fsdp2", method))
    yield from _launched(context, "ddp", "full")


def shared_rows(context: Context) -> Found:
    """Rows of which two ranks have a part each: on one card over gloo, in float32, and on two cards over NCCL."""
    for method in ("lora",) if context.tiny else ("full", "lora"):
        out = context.folder / f"shared-{method}"
        status = _on_one_card(context, flags(context, "sft", out, *METHODS[method], *_HALF, *_SHARED))
        yield _compared(context, f"{method} no", out, status, (_one_rank(context, method, "no"), _MOST["no"]))
    if context.device == "cpu":
        return
    if torch.cuda.device_count() < 2:
        yield context.result("two cards", ABSENT, f"{torch.cuda.device_count()} GPU here")
        return
    for strategy in ("ddp", "fsdp2"):
        out = context.folder / f"shared-{strategy}"
        status = _launch(context, strategy, "bf16", flags(context, "sft", out, *_HALF, *_SHARED))
        expected = _one_rank(context, "full", "bf16")
        yield _compared(context, f"{strategy} full", out, status, (expected, _MOST["bf16"]))


def _launched(context: Context, strategy: str, method: str) -> Iterator[Result]:
    case, precision = f"{strategy} {method}", "bf16" if context.device == "cuda" else "no"
    out, again = (context.folder / f"{strategy}-{method}{name}" for name in ("", "-resumed"))
    status = _launch(context, strategy, precision, flags(context, "sft", out, *METHODS[method], *_HALF))
    expected = _one_rank(context, method, precision)
    yield _compared(context, case, out, status, (expected, _MOST[precision]))
    checkpoints = [each for each in complete_checkpoints(out) if step_of(each) < STEPS] if not status else []
    if not checkpoints:
        yield context.result(f"{case} resumed", FAILED, "no checkpoint")
        return
    if context.tiny:  # the tests resume on CPUs
        return
    more = (*METHODS[method], *_HALF, "--resume-from-checkpoint", str(checkpoints[0]))
    status = _launch(context, strategy, precision, flags(context, "sft", again, *more))
    expected = losses(out)[-(STEPS - step_of(checkpoints[0])) :]
    yield _compared(context, f"{case} resumed", again, status, (expected, _MOST_RESUMED))


def _launch(context: Context, strategy: str, precision: str, arguments: list[str]) -> int:
    """The exit status of a job that starts as `dimba launch` starts it, with the flags that the plan would make."""
    argv = job_argv(
        script("sft"),
        gpus=2,
        precision=precision,
        cores=os.cpu_count() or 2,
        tokenises=True,
        python=sys.executable,
        sharding=Strategy(strategy, "").flags(OBJECTIVES["sft"]),
    )
    environment = {**os.environ, **_device(context, cards="0,1")}
    return subprocess.run([*argv, *arguments], env=environment, check=False).returncode


def _one_rank(context: Context, method: str, precision: str) -> list[float]:
    """The losses of one rank on this device."""
    if context.device == "cpu":
        return reference(context, "sft", method)
    out = context.folder / f"one-rank-{method}-{precision}"
    if not (out / LEARNING_FILE).exists() and train(context, "sft", out, *METHODS[method], precision=precision):
        return []
    return losses(out)


def _compared(context: Context, case: str, out: Path, status: int, wanted: tuple[list[float], float]) -> Result:
    """The result of a run on two ranks; `wanted` are losses, and the largest distance from them."""
    if status:
        return context.result(case, FAILED, f"exit status {status}")
    expected, most = wanted
    seen, away, ranks = learning(out), distance(losses(out), expected), _ranks(out)
    is_right = away <= most and seen["saved_model"] == "equal" and ranks == 2
    return context.result(
        case, RIGHT if is_right else WRONG, f"saved model {seen['saved_model']}", away=away, ranks=ranks
    )


def _ranks(out: Path) -> int:
    """How many ranks saved their random state in the last checkpoint."""
    checkpoints = complete_checkpoints(out)
    return len(list(checkpoints[-1].glob("rng_state_*.pth"))) if checkpoints else 0
