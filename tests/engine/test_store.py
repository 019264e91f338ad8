"""A job in a container sends its checkpoints to a store on the host, and continues from there in an empty folder."""

import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from dimba.common.output_store import STORE_FILE
from dimba.runners.docker.engine import Engine
from tests.conftest import Dimba
from tests.engine.test_docker import append, edit, inspect, last_run
from tests.stores import BUCKET, LOGIN, s3_server, until


def newest(job: Path, run: dict[str, Any], attempt: int) -> str | None:
    state = job / "runs" / run["id"] / "attempts" / str(attempt) / STORE_FILE
    return json.loads(state.read_text(encoding="utf-8"))["newest"] if state.exists() else None


@pytest.mark.proof
def test_a_stopped_job_continues_in_a_container_of_an_empty_folder(
    tiny_job: Path, tmp_path_factory: pytest.TempPathFactory, dimba: Dimba, engine: Engine
):
    (gateway,) = (each["Gateway"] for each in engine.api.inspect_network("bridge")["IPAM"]["Config"][:1])
    with s3_server("0.0.0.0") as port:
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT"))
        login = {**LOGIN, "AWS_ENDPOINT_URL": f"http://{gateway}:{port}"}
        edit(tiny_job, "max_steps: 3", "max_steps: 4000")
        append(tiny_job, f"trainer_args: {{save-steps: 1}}\noutput_store: {BUCKET}\n")
        append(tiny_job, f"container: {{env: [{', '.join(login)}]}}\n")
        started = dimba("launch", "job.yaml", "--trust-spec", "--detach", cwd=tiny_job, **login)
        assert started.returncode == 0, started.stderr
        run = last_run(tiny_job, dimba)
        assert LOGIN["AWS_SECRET_ACCESS_KEY"] not in json.dumps(inspect(engine, run))
        until(lambda: newest(tiny_job, run, 1), 300)
        assert dimba("stop", run["id"], cwd=tiny_job).returncode == 0
        sent = last_run(tiny_job, dimba)["store"]["newest"]
        there = tmp_path_factory.mktemp("there") / "job"
        there.mkdir()
        shutil.move(tiny_job / "data.jsonl", there)
        shutil.rmtree(tiny_job / "out")
        shutil.rmtree(tiny_job / "runs")
        done = dimba("resume", f"{BUCKET}/{run['id']}", "--trust-spec", "--detach", cwd=there, **login)
        assert done.returncode == 0 and f"continuing from {sent}" in done.stderr, done.stderr
        until(lambda: newest(there, run, 2) not in (None, sent), 300)
        assert dimba("stop", run["id"], "--now", cwd=there).returncode == 0
