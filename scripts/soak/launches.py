"""Starts many launches at once on two pretend GPUs: no GPU may ever be leased to two of them.

Each job records its GPU and its times; the times of a GPU must not overlap, and every job must succeed.

PYTHONPATH=. python scripts/soak/launches.py [LAUNCHES]
"""

import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from tests.conftest import QUESTIONS, hollow_checkpoint, pretend_gpus, write_rows

TRAINER = """\
import argparse, json, os, pathlib, time
parser = argparse.ArgumentParser()
for flag in ("--model", "--dataset", "--output-dir"):
    parser.add_argument(flag)
parser.parse_args()
began = time.time()
time.sleep(0.5)
gpu = os.environ["CUDA_VISIBLE_DEVICES"]
pathlib.Path("times.json").write_text(json.dumps([gpu, began, time.time()]))
"""
SPEC = """\
version: 1
name: soak
mode: sft
base_checkpoint: base
dataset: {path: data.jsonl}
method: full
output_dir: out/%d
trainer: ./trainer.py
resources: {gpus: 1}
runner: process
"""


def main() -> int:
    """Print the result; returns 1 if a GPU was shared or a launch failed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        statuses = launches(place, count)
        times = [json.loads(each.read_text()) for each in place.glob("out/*/times.json")]
    gpus = {gpu: sorted(each[1:] for each in times if each[0] == gpu) for gpu in {each[0] for each in times}}
    gaps = [after[0] - before[1] for used in gpus.values() for before, after in pairwise(used)]
    shared = sum(gap < 0 for gap in gaps)
    failed = sum(map(bool, statuses)) + count - len(times)
    print(json.dumps({"launches": count, "gpus": len(gpus), "shared": shared, "failed": failed}))
    return int(bool(shared or failed or len(gpus) != 2))


def launches(place: Path, count: int) -> list[int]:
    """The exit statuses of `count` launches, all started before any of them has a GPU."""
    hollow_checkpoint(place / "base")
    write_rows(place / "data.jsonl", QUESTIONS)
    (place / "trainer.py").write_text(TRAINER)
    environment = {
        **os.environ,
        **pretend_gpus(place / "bin"),
        "DIMBA_LEASES": str(place / "leases"),
        "XDG_CACHE_HOME": str(place / "cache"),
    }
    command = [sys.executable, "-m", "dimba", "launch", "--trust-spec", "--allow-cpu"]
    running = []
    for n in range(count):
        (place / f"{n}.yaml").write_text(SPEC % n)
        log = (place / f"{n}.log").open("w")
        running.append(subprocess.Popen([*command, f"{n}.yaml"], cwd=place, env=environment, stdout=log, stderr=log))
    statuses = [each.wait() for each in running]
    for n, status in enumerate(statuses):
        if status:
            print((place / f"{n}.log").read_text(), file=sys.stderr)
    return statuses


if __name__ == "__main__":
    sys.exit(main())
