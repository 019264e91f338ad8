"""Time from the command to the loss of the first step, warm, in the same image: `dimba launch` against `trl sft`.

    PYTHONPATH=. python scripts/bench/first_step.py [--rounds 3]

Needs a container engine and a base image (DIMBA_BASE_IMAGE). A plain `docker run` starts `trl sft` in dimba's image.
Both train the Llama of 20 M parameters of `scripts/bench/train.py` on the same generated rows. The first launch, which
builds the image, is not counted.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from scripts.bench import peers
from scripts.bench.peers import Work
from scripts.bench.train import prepared
from scripts.bench.watched import run

THREADS = os.cpu_count() or 1  # of the clients; the containers use every core

SPEC = """\
version: 1
name: first-step
mode: sft
base_checkpoint: {folder}/base
dataset: {{path: {folder}/rows.json}}
method: full
training: {{batch_size: {batch}, grad_accumulation_steps: 1, epochs: 1, learning_rate: 1.0e-3, max_length: {length}}}
output_dir: out
resources: {{gpus: none}}
runner: docker
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        shape = {"vocabulary": 8192, "hidden": None, "layers": None, "length": 1024}
        work, *_ = prepared(Namespace(file=None, steps=2, batch=8, device="cpu", **shape), Path(name))
        _, image = launched(work, "warm")
        taken = [(launched(work, f"ours-{n}")[0], peer(work, f"theirs-{n}", image)) for n in range(rounds)]
    ours, theirs = (statistics.median(each) for each in zip(*taken, strict=True))
    ratios = sorted(one / other for one, other in taken)
    print(f"to the first step in the same image: {ours:.1f} s of dimba launch, {theirs:.1f} s of trl sft")
    print(f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}; target 1.1)")


def launched(work: Work, name: str) -> tuple[float, str]:
    """(seconds from `dimba launch` to the first step, the image of the job)."""
    place = work.folder / name
    place.mkdir()
    (place / "job.yaml").write_text(SPEC.format(folder=work.folder, batch=work.batch, length=work.length))
    dimba = str(Path(sys.executable).parent / "dimba")
    found = run([dimba, "launch", "job.yaml"], folder=place, threads=THREADS, metrics="runs/*/attempts/1/metrics.jsonl")
    record = next(place.glob("runs/*/run.json"))
    return found.first, json.loads(record.read_text(encoding="utf-8"))["image"]


def peer(work: Work, name: str, image: str) -> float:
    """Seconds from `docker run` of `trl sft` in `image` to the first step."""
    place = work.folder / name
    place.mkdir()
    docker = ["docker", "run", "--rm", "--network", "none", "--volume", f"{work.folder}:{work.folder}"]
    # As in dimba's containers: no files of root, and no requests to the Hub.
    docker += ["--user", f"{os.getuid()}:{os.getgid()}", "--env", "HF_HUB_OFFLINE=1", "--env", "HOME=/tmp"]
    docker += ["--env", "PYTHONUNBUFFERED=1", "--entrypoint", "trl", image]
    command = [*docker, *peers.trl(work, place / "out", packing=False)[1:]]
    return run(command, folder=place, threads=THREADS).first


if __name__ == "__main__":
    main()
