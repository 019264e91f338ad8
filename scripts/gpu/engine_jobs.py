"""Jobs through the engine on a GPU: one of a step, and two that want the same GPU."""

import json
import time
from typing import Any

from scripts.gpu.context import Context, Found
from scripts.gpu.launcher import dimba, examined, has_engine, launcher_folder
from scripts.gpu.results import ABSENT, RIGHT, WRONG

_SPEC = """\
version: 1
name: {name}
mode: sft
base_checkpoint: {base}
dataset: {{path: {rows}}}
method: lora
training: {{batch_size: 1, grad_accumulation_steps: 1, max_steps: {steps}}}
output_dir: {name}
resources: {{gpus: [0]}}
runner: docker
"""
_SECONDS = 200
_WAITING = ("queued", "building")
_ENDED = ("succeeded", "failed", "stopped", "lost")


def jobs(context: Context) -> Found:
    """A job of one step, then one that waits for the GPU which another job holds."""
    if context.tiny:
        yield context.result("all", ABSENT, "tests/engine/ runs jobs through an engine")
    elif not has_engine(examined(context)):
        yield context.result("all", ABSENT, "no engine answers")
    else:
        yield from _one_step(context)
        yield from _waits(context)


def _one_step(context: Context) -> Found:
    done = dimba(context, "launch", _spec(context, "one-step", 1), *_flags(context))
    run = _runs(context)[-1] if done.returncode == 0 else {}
    lines = done.stderr.strip().splitlines() or [""]
    right = done.returncode == 0 and run.get("status") == "succeeded"
    yield context.result("one step", RIGHT if right else WRONG, f"exit status {done.returncode}: {lines[-1][:150]}")


def _waits(context: Context) -> Found:
    """The first job holds the GPU until it is stopped; the second is queued until then, and trains."""
    first = _started(context, "holds", 100_000)
    _wait(context, first, lambda run: run["status"] == "running")
    second = _started(context, "waits", 1)
    time.sleep(3)
    during = _run(context, second)["status"]
    dimba(context, "stop", first, "--now")
    after = _wait(context, second, lambda run: run["status"] in _ENDED)["status"]
    right = during in _WAITING and after == "succeeded"
    yield context.result("lease", RIGHT if right else WRONG, f"{during} while another job held the GPU, then {after}")


def _started(context: Context, name: str, steps: int) -> str:
    """The id of a run that is started and left alone."""
    done = dimba(context, "launch", _spec(context, name, steps), "--detach", *_flags(context))
    return done.stdout.strip().splitlines()[-1]


def _flags(context: Context) -> tuple[str, ...]:
    return () if context.device == "cuda" else ("--allow-cpu",)


def _spec(context: Context, name: str, steps: int) -> str:
    from scripts.gpu.jobs import base, rows  # torch takes seconds

    path = launcher_folder(context) / f"{name}.yaml"
    named = {"base": base(context).resolve(), "rows": rows(context, "sft").resolve()}
    path.write_text(_SPEC.format(name=name, steps=steps, **named), encoding="utf-8")
    return path.name


def _runs(context: Context) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dimba(context, "ps", "-a", "--json").stdout)
    return found


def _run(context: Context, run_id: str) -> dict[str, Any]:
    return next(run for run in _runs(context) if run["id"] == run_id)


def _wait(context: Context, run_id: str, reached: Any) -> dict[str, Any]:
    """The run once `reached` is true of it, or as it is after _SECONDS."""
    end = time.monotonic() + _SECONDS
    while not reached(run := _run(context, run_id)) and run["status"] not in _ENDED and time.monotonic() < end:
        time.sleep(1)
    return run
