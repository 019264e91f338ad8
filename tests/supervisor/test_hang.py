"""A job without new steps: the log warns, and `--restart-hung` restarts it."""

import json
from pathlib import Path

import pytest

from tests.conftest import Dimba

HANGS_ONCE = """\
import argparse, os, pathlib, time
parser = argparse.ArgumentParser()
for flag in ("--model", "--dataset", "--use-lora"):
    parser.add_argument(flag, nargs="?")
parser.parse_args()
with open(os.path.join(os.environ["DIMBA_ATTEMPT_DIR"], "metrics.jsonl"), "a") as metrics:
    for step in range(1, 7):
        metrics.write('{"step": %d}\\n' % step)
        metrics.flush()
        time.sleep(0.1)
before = pathlib.Path("hung-before")
if not before.exists():
    before.touch()
    time.sleep(SECONDS)
"""


@pytest.fixture
def hanging(job: Path) -> Path:
    (job / "mine.py").write_text(HANGS_ONCE, encoding="utf-8")
    with (job / "job.yaml").open("a", encoding="utf-8") as spec:
        spec.write("trainer: mine.py\nrunner: process\n")
    return job


def launch(dimba: Dimba, job: Path, seconds: int, *flags: str, hang_seconds: str = "3") -> dict:
    text = (job / "mine.py").read_text(encoding="utf-8").replace("SECONDS", str(seconds))
    (job / "mine.py").write_text(text, encoding="utf-8")
    done = dimba("launch", "job.yaml", "--trust-spec", *flags, cwd=job, DIMBA_HANG_SECONDS=hang_seconds)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(dimba("ps", "-a", "--json", cwd=job).stdout)
    log = (job / "runs" / run["id"] / "attempts" / "1" / "log.txt").read_text(encoding="utf-8")
    assert "warning: the job hangs: no step for" in log
    return dict(run)


@pytest.mark.proof
def test_a_hang_is_reported_and_the_job_keeps_running(hanging: Path, dimba: Dimba):
    run = launch(dimba, hanging, 4, hang_seconds="1")
    assert (run["status"], len(run["attempts"])) == ("succeeded", 1)


@pytest.mark.proof
def test_restart_hung_kills_a_hung_job_and_resumes_it(hanging: Path, dimba: Dimba):
    run = launch(dimba, hanging, 300, "--restart-hung")
    assert (run["status"], [each["exit_reason"] for each in run["attempts"]]) == ("succeeded", ["hung", "completed"])
