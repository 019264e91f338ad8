"""`dimba data` in the container that the job would run in."""

import json
import os
from pathlib import Path

from dimba.runners.docker.engine import Engine
from tests.conftest import QUESTIONS, Dimba, write_rows

UNKNOWN_UID = 1234  # no user has it


def containers_of(job: Path, engine: Engine) -> list[str]:
    """Ids of the containers that mount something of the job's folder; other tests may use the same engine."""
    there = engine.api.containers(all=True)
    return [each["Id"] for each in there if any(str(mount["Source"]).startswith(f"{job}/") for mount in each["Mounts"])]


def test_data_tokenises_in_the_container_and_keeps_the_tokens_for_the_job(engine: Engine, tiny_job: Path, dimba: Dimba):
    for path in (tiny_job, *tiny_job.rglob("*")):
        os.chown(path, UNKNOWN_UID, UNKNOWN_UID)
    tiny_job.chmod(0o755)
    own = {"HF_HOME": str(tiny_job / "hf")}
    done = dimba("data", "job.yaml", "--json", "--runner", "docker", cwd=tiny_job, **own)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["unusable"], found["examples"]) == (12, 0, 12)
    assert not containers_of(tiny_job, engine), "nothing is left behind"
    (tokens,) = (each for each in (tiny_job / "hf/dimba/tokens").iterdir() if each.is_dir())
    written = tokens.stat().st_mtime_ns
    assert {path.stat().st_uid for path in (tokens, *tokens.iterdir())} == {UNKNOWN_UID}

    plan = json.loads(dimba("plan", "job.yaml", "--json", cwd=tiny_job, **own).stdout)
    assert plan["data"]["report"]["trained_tokens"] == found["trained_tokens"]
    launched = dimba("launch", "job.yaml", cwd=tiny_job, **own)
    assert launched.returncode == 0, launched.stdout + launched.stderr
    assert tokens.stat().st_mtime_ns == written, "the job reuses the tokens"
    assert len(containers_of(tiny_job, engine)) == 1, "only the job's own container remains"


def test_a_plan_counts_tokens_in_the_container_and_refuses_rows_that_would_be_cut(
    engine: Engine, tiny_job: Path, dimba: Dimba
):
    write_rows(tiny_job / "data.jsonl", [*QUESTIONS, {"question": "Q", "answer": "word " * 400}])
    refused = dimba("plan", "job.yaml", cwd=tiny_job, HF_HOME=str(tiny_job / "hf"))
    assert refused.returncode == 2 and "--on-long" in refused.stderr and "job.yaml:" in refused.stderr
