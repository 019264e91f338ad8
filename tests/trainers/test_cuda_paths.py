"""Whole jobs on a pretended GPU: tensors that must not meet those of the CPU, under CUDA's autocast."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import QUESTIONS, write_rows
from tests.trainers.masked.bases import make_masked

torch = pytest.importorskip("torch")
HERE = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(not shutil.which("g++"), reason="the pretended GPU needs g++"),
]

AMPERE, TURING = (8, 0), (7, 5)
ROWS = {
    "sft": QUESTIONS,
    "grpo": [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(12)],
    "dpo": [{"prompt": f"What is {n} + {n}?", "chosen": f"It is {2 * n}.", "rejected": "No."} for n in range(12)],
}
STEP = ("--batch-size", 3, "--grad-accumulation-steps", 2)
GROUPS = ("--batch-size", 4, "--grad-accumulation-steps", 2, "--max-completion-length", 6)
JOBS = {
    "sft, lora, recomputed": ("sft", AMPERE, (*STEP, "--use-lora", "--activation-checkpointing", "on")),
    "dpo, full, fp16": ("dpo", TURING, STEP),
    "grpo, full, with a reference": ("grpo", AMPERE, (*GROUPS, "--beta", 0.1)),
    "sft of dimba, lora, recomputed": ("sft", AMPERE, (*STEP, "--use-lora", "--activation-checkpointing", "on")),
    "sft of Dream, full, fp16": ("sft", TURING, (*STEP, "--trust-remote-code", "--validation-split", 2)),
}


def _library(folder: Path) -> Path:
    home, made = Path(torch.__file__).parent, folder / "pretended_cuda.so"
    command = ["g++", "-std=c++20", "-O0", "-shared", "-fPIC", f"-I{home}/include", str(HERE / "pretended_cuda.cpp")]
    command += [
        "-o",
        str(made),
        f"-L{home}/lib",
        f"-Wl,-rpath,{home}/lib",
        "-Wl,--no-as-needed",
        "-lc10",
        "-ltorch_cpu",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def outputs(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each job printed; all of them run in one process."""
    folder = tmp_path_factory.mktemp("pretended")
    jobs: list[list[Any]] = []
    for name, (mode, capability, flags) in JOBS.items():
        rows = write_rows(folder / f"{mode}.jsonl", ROWS[mode])
        kind = name.partition(",")[0].partition(" of ")[2]
        named = [
            "--base-checkpoint",
            make_masked(folder / kind, kind) if kind else tiny_checkpoint,
            "--dataset",
            rows,
            "--output-dir",
            folder / name.replace(", ", "-"),
        ]
        jobs.append([name, mode, capability, [str(each) for each in (*named, "--max-steps", 3, *flags)]])
    kept = {"CC": "gcc", "HF_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "pretended_cuda.py"), str(_library(folder)), json.dumps(jobs)]
    # Training on a CPU in this process leaves its precision there.
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_MIXED_PRECISION"}
    ended = subprocess.run(command, env={**environment, **kept}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    parts = re.split(r"^== (.*)$", ended.stdout, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("name", JOBS)
def test_a_job_trains_saves_and_loads_on_a_gpu_without_meeting_the_cpu(name: str, outputs: dict[str, str]) -> None:
    output = outputs[name]
    # How many tokens are masked is known to the device alone.
    waits = "['scoring.py: limit', 'scoring.py: losses']" if " of " in name else "[]"
    assert f"\nstatus 0; waits in a step: {waits}" in output, output
    assert "the saved model is not the trained one" not in output
    assert "no continuations are compared" not in output
    if name.startswith("grpo"):  # all rewards of random completions are equal: nothing is to be learned from them
        assert "in every group all completions got the same reward" in output
    else:
        mixed = "fp16" if "fp16" in name else "bf16"
        assert f"mixed {mixed}" in output and re.search(r"learned: (\d+) of \1 trained tensors changed", output)
