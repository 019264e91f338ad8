"""A run with a store: refused before it starts if the store cannot be used, and resumed from it on another machine."""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dimba.common.checkpoints import newest_checkpoint
from dimba.common.output_store import STORE_FILE
from dimba.host.trust_requirements import find_trust_requirements
from dimba.spec import parse_spec
from tests.conftest import REPOSITORY, SPEC, Dimba
from tests.kills import weights, write_job
from tests.stores import BUCKET, LOGIN, run_in_store, s3_server, until

STORE = f"output_store: {BUCKET}\ncontainer: {{env: [AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL]}}\n"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with s3_server() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def login(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"))
    for name, value in {**LOGIN, "AWS_ENDPOINT_URL": url, "DIMBA_STORE_PACE": "0.05"}.items():
        monkeypatch.setenv(name, value)


def record(folder: Path) -> dict:
    (path,) = folder.glob("runs/*/run.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_store_requires_trust_in_the_specs_author():
    spec = parse_spec(f"{SPEC}output_store: s3://b/x\n".encode(), source="x").spec
    (found,) = find_trust_requirements(spec, REPOSITORY, REPOSITORY, ())
    assert (found.key, found.what) == ("output_store", "the job sends its checkpoints and the model to s3://b/x")


def test_a_bucket_that_does_not_exist_is_refused_before_the_job_starts(login, tiny_job: Path, dimba: Dimba):
    text = (
        (tiny_job / "job.yaml").read_text(encoding="utf-8") + STORE.replace("bucket", "nowhere") + "runner: process\n"
    )
    (tiny_job / "job.yaml").write_text(text, encoding="utf-8")
    done = dimba("launch", "job.yaml", "--trust-spec", cwd=tiny_job)
    assert done.returncode == 2 and "hint: create the bucket" in done.stderr
    assert "job.yaml:9: output_store: s3://nowhere/runs: the bucket does not exist" in done.stderr
    assert record(tiny_job)["attempts"] == [] and record(tiny_job)["status"] == "failed"


def test_what_a_succeeded_run_could_not_send_is_sent_by_resume(login, tmp_path: Path, dimba: Dimba):
    run, out = tmp_path / "runs" / "r", tmp_path / "out"
    (run / "attempts" / "1").mkdir(parents=True)
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"x" * 1000)
    (run / "job.yaml").write_text(SPEC + STORE + "runner: process\n", encoding="utf-8")
    store = {"address": BUCKET, "writer": "me", "pending": ["model"], "proved": True}
    attempts = [{"number": 1, "job": "1:1:x", "ended": "2026-01-01T00:00:00+00:00"}]
    values = {"id": "r", "name": "r", "status": "succeeded", "output_dir": str(out), "runner": "process"}
    run.joinpath("run.json").write_text(
        json.dumps({**values, "folder": str(tmp_path), "store": store, "attempts": attempts}), encoding="utf-8"
    )
    done = dimba("resume", "r", cwd=tmp_path)
    assert done.returncode == 0 and "model is in the store" in done.stderr, done.stderr
    assert run_in_store().read("model/model.safetensors") == b"x" * 1000
    assert record(tmp_path)["store"]["pending"] == []
    again = dimba("resume", "r", cwd=tmp_path)
    assert again.returncode == 2 and "succeeded" in again.stderr


@pytest.mark.proof
def test_a_stopped_run_ends_on_another_machine_with_the_weights_of_a_quiet_one(
    login, tmp_path: Path, tiny_checkpoint: Path, dimba: Dimba
):
    quiet, here, there = (write_job(tmp_path / name, tiny_checkpoint, steps=60) for name in ("quiet", "here", "there"))
    (there / "job.yaml").unlink()
    assert dimba("launch", "job.yaml", cwd=quiet).returncode == 0
    with (here / "job.yaml").open("a", encoding="utf-8") as file:
        file.write(STORE)
    assert dimba("launch", "job.yaml", "--trust-spec", "--detach", cwd=here).returncode == 0
    until(lambda: newest_checkpoint(here / "out") is not None, 240)
    run = record(here)["id"]
    assert dimba("stop", run, cwd=here).returncode == 0
    store = record(here)["store"]
    assert (store["newest"], store["pending"]) == (newest_checkpoint(here / "out").name, [])
    shutil.rmtree(here)
    untrusted = dimba("resume", f"{BUCKET}/{run}", cwd=there, XDG_CACHE_HOME=str(tmp_path / "other"))
    assert untrusted.returncode == 2 and "resume it with --trust-spec" in untrusted.stderr
    done = dimba("resume", f"{BUCKET}/{run}", "--trust-spec", cwd=there)
    assert done.returncode == 0 and f"continuing from {store['newest']}" in done.stderr, done.stderr
    assert weights(there) == weights(quiet)
    assert record(there)["status"] == "succeeded" and len(record(there)["attempts"]) == 2
    assert json.loads((there / f"runs/{run}/attempts/2/{STORE_FILE}").read_text())["pending"] == []
    empty = tmp_path / "empty"
    empty.mkdir()
    again = dimba("resume", f"{BUCKET}/{run}", cwd=empty)
    assert again.returncode == 2 and f"its model is in {BUCKET}/{run}/model" in again.stderr
    assert not list(empty.iterdir())
