"""Run folders as a launch leaves them, without training."""

import json
import math
import os
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dimba.records import RunFolder

SPEC = """\
version: 1
name: {name}
mode: sft
base_checkpoint: base
dataset: {{path: data.jsonl}}
method: lora
training: {{learning_rate: {rate}}}
output_dir: out/{name}
"""
EVIL = "</script><img src=x onerror=\"document.title='evil'\"><!-- &amp;"


def write_run(
    runs: Path,
    name: str = "first-20261129-100000-abcd",
    *,
    attempts: Iterable[Iterable[Mapping[str, Any]]] = (),
    rate: float = 1e-4,
    plan: Mapping[str, Any] | None = None,
    **record: Any,
) -> RunFolder:
    """A run that succeeded, with the metrics of its attempts."""
    folder = runs / name
    folder.mkdir(parents=True)
    numbered = list(enumerate(attempts, 1))
    times = {"started": "2026-11-29T10:00:00+00:00", "ended": "2026-11-29T10:20:00+00:00"}
    kept = {
        "id": name, "name": name.split("-")[0], "status": "succeeded", "exit_reason": "completed", "exit_code": 0,
        "runner": "process", "mode": "sft", "method": "lora", "output_dir": str(runs.parent / "out"), **times,
        "attempts": [{"number": n, "exit_reason": "completed", "exit_code": 0, **times} for n, _ in numbered],
        "command": ["dimba", "launch", "job.yaml"], "git_revision": "0123abcd", "lock_hash": "lock-hash",
        "base_hash": "sha256:ba5e", "image_digest": "sha256:d19e57", "learned": True, "created": times["started"],
    } | record  # fmt: skip
    (folder / "run.json").write_text(json.dumps(kept), encoding="utf-8")
    (folder / "job.yaml").write_text(SPEC.format(name=name.split("-")[0], rate=rate), encoding="utf-8")
    (folder / "plan.json").write_text(json.dumps(dict(plan or {})), encoding="utf-8")
    for number, lines in numbered:
        attempt = folder / "attempts" / str(number)
        attempt.mkdir(parents=True)
        write_lines(attempt / "metrics.jsonl", lines)
        (attempt / "log.txt").write_text("the last line of the log\n", encoding="utf-8")
    return RunFolder(folder, os.getuid(), os.getgid())


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def curve(
    first: int, last: int, *, total: int | None = None, evaluated: int = 0, seed: int = 0
) -> list[dict[str, Any]]:
    """The metrics of the steps of an SFT run, with a validation loss every `evaluated` steps."""
    chance = random.Random(seed)
    lines = []
    for step in range(first, last + 1):
        loss = 1 + 3 * math.exp(-step / 40) + chance.uniform(-0.1, 0.1)
        speed = 9000 + chance.uniform(-300, 300)
        line = {
            "step": step,
            "max_steps": total or last,
            "loss": loss,
            "grad_norm": chance.random(),
            "learning_rate": 1e-4,
        }
        lines.append(line | {"tokens_per_second": speed, "elapsed": step * 0.5})
        if evaluated and step % evaluated == 0:
            lines.append({"step": step, "max_steps": total or last, "eval_loss": loss + 0.2})
    return lines
