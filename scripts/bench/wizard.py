"""Measure the wizard's latency: to the first prompt, and from an answer to the next prompt.

On a pseudo-terminal of 80 × 24, in a temporary folder, with one pretend GPU, while the wizard probes the engine.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import QUESTIONS, hollow_checkpoint, write_rows
from tests.wizard.terminal import ENTER, UP, Terminal, environment

RUNS = 5
# (keys, text of the next prompt); none of these answers needs a slow check.
ANSWERS = (
    ([ENTER], "Base checkpoint:"),
    ([ENTER], "6  local file"),
    ([UP, ENTER], "File:"),
    (["qa.jsonl", ENTER], "VRAM budget per GPU"),
    ([ENTER], "every weight"),
    ([ENTER], "take these values"),
    ([UP, ENTER], "Batch size:"),
    ([ENTER], "Gradient accumulation:"),
    ([ENTER], "Epochs:"),
    ([ENTER], "Max steps:"),
    ([ENTER], "Learning rate:"),
    ([ENTER], "Max length:"),
    ([ENTER], "LoRA rank:"),
    ([ENTER], "LoRA alpha:"),
    ([ENTER], "Where it runs"),
)


def main() -> None:
    first, next_prompt = [], []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            hollow_checkpoint(folder / "checkpoints/base")
            write_rows(folder / "qa.jsonl", QUESTIONS)
            (folder / "nvidia-smi").write_text("#!/bin/sh\necho 0, GPU-0, One GPU, 24564, 8.9, 580\n")
            (folder / "nvidia-smi").chmod(0o755)
            path = f"{name}:{os.environ['PATH']}"
            argv = [sys.executable, "-m", "dimba", "wizard"]
            began = time.perf_counter()
            terminal = Terminal(argv, folder, environment(XDG_STATE_HOME=name, PYTHONPATH=str(Path.cwd()), PATH=path))
            terminal.wait("learn from example answers")
            first.append(time.perf_counter() - began)
            next_prompt += [_seconds(terminal, keys, expected) for keys, expected in ANSWERS]
            terminal.child.close(force=True)
    slowest = max(next_prompt)
    after = ANSWERS[next_prompt.index(slowest) % len(ANSWERS)][1]
    print(f"start to first prompt: {statistics.median(first):.2f} s, median of {RUNS} (target 0.6 s)")
    print(
        f"answer to next prompt: {statistics.median(next_prompt):.3f} s, median of {len(next_prompt)}; "
        f"the slowest {slowest:.3f} s, before `{after}` (target 0.1 s)"
    )


def _seconds(terminal: Terminal, keys: list[str], expected: str) -> float:
    time.sleep(1.0)  # a user reads, and background probes end
    terminal.read()
    began = time.perf_counter()
    terminal.send(*keys)
    terminal.wait(expected)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
