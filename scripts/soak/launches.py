"""Many whole launches in the same instant on two pretend GPUs: is a card ever given to two of them?

Each job notes when it has which card; their times must not overlap, and all have to end well.

PYTHONPATH=. python scripts/soak/launches.py [LAUNCHES]
"""

import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from tests.conftest import QUESTIONS, hollow_checkpoint, pretend_cards, write_rows

TRAINER = """\
import argparse, json, os, pathlib, time
parser = argparse.ArgumentParser()
for flag in ("--model", "--dataset", "--output-dir"):
    parser.add_argument(flag)
parser.parse_args()
began = time.time()
time.sleep(0.5)
card = os.environ["CUDA_VISIBLE_DEVICES"]
pathlib.Path("seen.json").write_text(json.dumps([card, began, time.time()]))
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
    """Prints what came of it; the status is 1 where a card was shared or a launch failed."""
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        statuses = launches(place, many)
        times = [json.loads(each.read_text()) for each in place.glob("out/*/seen.json")]
    cards = {card: sorted(times[1:] for times in times if times[0] == card) for card in {each[0] for each in times}}
    gaps = [after[0] - before[1] for taken in cards.values() for before, after in pairwise(taken)]
    shared = sum(gap < 0 for gap in gaps)
    failed = sum(map(bool, statuses)) + many - len(times)
    print(json.dumps({"launches": many, "cards": len(cards), "shared": shared, "failed": failed}))
    return int(bool(shared or failed or len(cards) != 2))


def launches(place: Path, many: int) -> list[int]:
    """The exit statuses of as many `dimba launch`, all begun before any of them has a card."""
    hollow_checkpoint(place / "base")
    write_rows(place / "data.jsonl", QUESTIONS)
    (place / "trainer.py").write_text(TRAINER)
    environment = {
        **os.environ,
        **pretend_cards(place / "bin"),
        "DIMBA_LEASES": str(place / "leases"),
        "XDG_CACHE_HOME": str(place / "cache"),
    }
    command = [sys.executable, "-m", "dimba", "launch", "--trust-spec", "--allow-cpu"]
    running = []
    for n in range(many):
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
