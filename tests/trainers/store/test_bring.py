"""A store is proved before it is used, and what comes from it is what its manifest has."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dimba.common.checkpoints import is_complete
from dimba.common.output_store import MANIFEST
from dimba.trainers.store import bundles
from dimba.trainers.store.__main__ import main
from dimba.trainers.store.filesystem import Store, open_store
from dimba.trainers.store.snapshots import snapshot
from tests.stores import BUCKET, FaultyNetwork, run_in_store, save_checkpoint, until, verified


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]):
    """Runs a command of the store; returns its status and the values that it printed."""

    def run(*words: str) -> tuple[int, dict]:
        status = main(list(words))
        values: dict = {}
        for line in capsys.readouterr().out.splitlines():
            values |= json.loads(line)
        return status, values

    return run


def sent(upload, folder: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint(folder / "out", step, best=steps[0])
        process = upload()
        until(lambda step=step: MANIFEST in run_in_store().sizes(f"checkpoint-{step}"))
        assert process.end()[0] == 0


def test_the_newest_and_the_best_come_back_and_a_newer_local_one_is_kept(upload, say, tmp_path: Path):
    sent(upload, tmp_path, 1, 2)
    there = tmp_path / "there"
    there.mkdir()
    assert say("bring", BUCKET, "r", "other", str(there))[1]["brought"] == "checkpoint-2"
    for name in ("checkpoint-1", "checkpoint-2"):
        assert is_complete(there / name)
        for each in (tmp_path / "out" / name).iterdir():
            assert (there / name / each.name).read_bytes() == each.read_bytes()
    assert sorted(each.name for each in there.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    save_checkpoint(there, 3)
    assert say("bring", BUCKET, "r", "other", str(there)) == (0, {"brought": None})


def test_a_damaged_checkpoint_is_not_used_and_the_one_before_it_is(upload, say, tmp_path: Path):
    sent(upload, tmp_path, 1, 2)
    run_in_store().put("checkpoint-2/model.safetensors", b"y" * 200_000)
    (tmp_path / "there").mkdir()
    _, values = say("bring", BUCKET, "r", "other", str(tmp_path / "there"))
    assert values["brought"] == "checkpoint-1"
    assert values["note"] == "checkpoint-2/model.safetensors is not what its manifest has: it is not used"
    assert not (tmp_path / "there" / "checkpoint-2").exists()


def test_a_file_that_is_too_large_for_a_store_is_cut_and_joined_again(network, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(bundles, "PIECE", 150_000)
    place = save_checkpoint(tmp_path / "out", 1)
    bundle = snapshot(place)
    bundles.send(run_in_store(), bundle)
    assert {"optimizer.pt.piece-0002", "model.safetensors.piece-0001"} < run_in_store().sizes("checkpoint-1").keys()
    bundles.bring(run_in_store(), "checkpoint-1", tmp_path / "there")
    for each in place.iterdir():
        assert (tmp_path / "there" / each.name).read_bytes() == each.read_bytes()
    monkeypatch.setattr(Store, "put_file", None)
    bundles.send(run_in_store(), bundle)  # compares, and sends nothing


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil"])
def test_a_manifest_that_names_a_place_outside_of_its_folder_is_none(network, say, tmp_path: Path, name: str):
    run_in_store().put("checkpoint-1/x", b"x")
    listed = {"files": {name: {"size": 1, "sha256": "0"}}}
    run_in_store().put(f"checkpoint-1/{MANIFEST}", json.dumps(listed).encode())
    assert say("bring", BUCKET, "r", "me", str(tmp_path)) == (0, {"brought": None})


def test_a_run_that_another_machine_writes_is_refused_until_it_has_been_silent_for_long(
    network, say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_in_store().put("writer.json", b'{"writer": "there", "state": "running", "host": "box"}')
    monkeypatch.setenv("DIMBA_STORE_PACE", "1")
    status, values = say("bring", BUCKET, "r", "here", str(tmp_path))
    assert status == 2 and values["error"]["cause"].startswith("the run is active on box, which wrote to the store")
    assert "--anyway" in values["error"]["hint"]
    assert say("bring", BUCKET, "r", "there", str(tmp_path))[0] == 0
    run_in_store().put("writer.json", b'{"writer": "there", "state": "running", "host": "box"}')
    assert say("bring", BUCKET, "r", "here", "--anyway", str(tmp_path))[0] == 0
    run_in_store().put("writer.json", b'{"writer": "there", "state": "running", "host": "box"}')
    monkeypatch.setenv("DIMBA_STORE_PACE", "0.003")
    time.sleep(2.1)  # S3's times are full seconds
    assert say("probe", BUCKET, "r", "here")[0] == 0
    run_in_store().put("writer.json", b'{"writer": "there", "state": "ended"}')
    monkeypatch.setenv("DIMBA_STORE_PACE", "1")
    assert say("probe", BUCKET, "r", "here")[0] == 0


def test_a_run_that_another_machine_has_ended_is_not_trained_again(network, say, tmp_path: Path):
    run_in_store().put("writer.json", b'{"writer": "there", "state": "ended", "how": "succeeded", "host": "box"}')
    status, values = say("bring", BUCKET, "r", "here", str(tmp_path))
    assert status == 2 and values["error"]["cause"] == "the run succeeded on box"
    assert say("bring", BUCKET, "r", "there", str(tmp_path))[0] == 0


def test_a_store_that_works_is_proved_and_keeps_nothing_of_the_proof(network, say):
    assert say("probe", BUCKET, "r", "me") == (0, {})
    assert run_in_store().sizes().keys() == {"writer.json"}


@pytest.mark.parametrize(
    ("fault", "only", "cause", "hint"),
    [
        ("no-right", "", "s3://bucket/runs: it allows no writing", "PutObject"),
        ("no-right", "DELETE", "s3://bucket/runs: it allows no deleting", "DeleteObject"),
        ("no-right", "GET /bucket?", "s3://bucket/runs: it allows no listing", "ListBucket"),
        ("wrong-key", "", "s3://bucket/runs: its login is refused", "AWS_ACCESS_KEY_ID"),
        ("wrong-secret", "", "s3://bucket/runs: its login is refused", "AWS_SECRET_ACCESS_KEY"),
        ("expired", "", "s3://bucket/runs: its login is refused", "AWS_ACCESS_KEY_ID"),
        ("refuse", "", "s3://bucket/runs: it does not answer", "AWS_ENDPOINT_URL"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_with_what_to_do(
    network: FaultyNetwork, say, monkeypatch: pytest.MonkeyPatch, fault: str, only: str, cause: str, hint: str
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
    network.fault, network.only = fault, only
    status, values = say("probe", BUCKET, "r", "me")
    error = values["error"]
    assert status == 2 and error["key"] == "output_store"
    assert error["cause"].startswith(cause) and hint in error["hint"] and "\n" not in error["cause"]


def test_a_bucket_that_does_not_exist_is_refused(network, say):
    status, values = say("probe", "s3://nowhere/runs", "r", "me")
    assert status == 2 and "the bucket does not exist" in values["error"]["cause"]
    assert values["error"]["hint"].startswith("create the bucket")


def test_a_protocol_that_nothing_speaks_is_refused_with_its_package(say, monkeypatch: pytest.MonkeyPatch):
    _, values = say("probe", "s4://bucket/runs", "r", "me")
    assert values["error"]["cause"].startswith("`s4://` is unknown here")
    monkeypatch.setitem(sys.modules, "paramiko", None)
    _, values = say("probe", "sftp://host/runs", "r", "me")
    assert values["error"]["hint"] == f"`{sys.executable} -m pip install paramiko`"
    monkeypatch.setenv("DIMBA_PINS", "tested")
    _, values = say("probe", "sftp://host/runs", "r", "me")
    assert "`container.image`" in values["error"]["hint"]


def test_a_folder_is_a_store_too_and_one_that_is_read_only_is_refused(upload, say, tmp_path: Path):
    (tmp_path / "shelf").mkdir()
    address = f"file://{tmp_path}/shelf"
    save_checkpoint(tmp_path / "out", 1)
    assert upload(DIMBA_STORE=address).end()[0] == 0
    assert verified(open_store(f"{address}/r"), tmp_path) == ["checkpoint-1"]
    (tmp_path / "there").mkdir()
    assert say("bring", address, "r", "me", str(tmp_path / "there"))[1]["brought"] == "checkpoint-1"
    status, values = say("probe", "file:///proc/shelf", "r", "me")
    assert status == 2 and values["error"]["cause"].startswith("file:///proc/shelf: ")


def test_an_address_without_a_run_lists_those_below_it(network, say, tmp_path: Path):
    status, values = say("find", BUCKET, str(tmp_path))
    assert status == 2 and values["error"]["cause"] == f"no run at {BUCKET}"
    run_in_store().put("run/run.json", b"{}")
    run_in_store().put("run/job.yaml", b"version: 1")
    status, values = say("find", BUCKET, str(tmp_path))
    assert status == 2 and values["error"]["cause"] == f"{BUCKET} has these runs:\n  r"
    assert values["error"]["hint"] == f"`dimba resume {BUCKET}/r`"
    assert say("find", f"{BUCKET}/r", str(tmp_path))[0] == 0 and (tmp_path / "run.json").read_bytes() == b"{}"


def test_the_command_that_a_refusal_names_can_be_copied_where_the_address_has_spaces(say, tmp_path: Path):
    for name in ("run.json", "job.yaml"):
        (tmp_path / "my ö" / "r" / "run").mkdir(parents=True, exist_ok=True)
        (tmp_path / "my ö" / "r" / "run" / name).write_text("{}", encoding="utf-8")
    status, values = say("find", f"file://{tmp_path}/my ö", str(tmp_path / "to"))
    assert status == 2 and values["error"]["hint"] == f"`dimba resume 'file://{tmp_path}/my ö/r'`"


def test_the_store_needs_no_torch():
    code = "import sys, dimba.trainers.store.__main__, dimba.trainers.store.upload, dimba.trainers.store.bring as b; "
    code += "sys.exit(len({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
