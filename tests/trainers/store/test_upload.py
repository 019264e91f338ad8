"""Complete checkpoints go to a store in the background, whatever the network and the processes do."""

import json
import random
import time
from pathlib import Path

import pytest

from dimba.common.output_store import MANIFEST, STORE_FILE
from tests.stores import FaultyNetwork, run_in_store, save_checkpoint, until, verified


def state(folder: Path) -> dict:
    return json.loads((folder / "runs/r/attempts/1" / STORE_FILE).read_text(encoding="utf-8"))


def is_there(name: str) -> bool:
    return MANIFEST in run_in_store().sizes(name)


def test_the_newest_checkpoint_replaces_the_one_before_it_and_the_best_stays(upload, tmp_path: Path):
    upload = upload()
    for step, best in ((1, None), (2, 2), (3, 2), (4, 2)):
        save_checkpoint(tmp_path / "out", step, best=best)
        until(lambda name=f"checkpoint-{step}": is_there(name))
    status, _ = upload.end()
    assert status == 0 and verified(run_in_store(), tmp_path) == ["checkpoint-2", "checkpoint-4"]
    assert (state(tmp_path)["newest"], state(tmp_path)["best"], state(tmp_path)["pending"]) == (
        "checkpoint-4",
        "checkpoint-2",
        [],
    )
    assert not (tmp_path / "out" / ".store").exists()


def test_the_model_goes_too_once_training_has_succeeded_with_the_record_and_without_the_owner(upload, tmp_path: Path):
    upload = upload()
    for name in ("model.safetensors", "config.json", "dimba.json", "dimba-owner.json", "trackio/a.db"):
        path = tmp_path / "out" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 100)
    (tmp_path / "runs/r/attempts/1/metrics.jsonl").write_text('{"step": 1}\n')
    save_checkpoint(tmp_path / "out", 1)
    assert upload.end("succeeded")[0] == 0
    assert verified(run_in_store(), tmp_path) == ["checkpoint-1", "model"]
    sent = run_in_store().sizes("model").keys() - {MANIFEST}
    assert sent == {"model.safetensors", "config.json", "dimba.json", "trackio/a.db"}
    assert run_in_store().sizes("run").keys() == {"job.yaml", "run.json", "attempts/1/metrics.jsonl"}
    assert run_in_store().read_json("writer.json")["how"] == "succeeded"


@pytest.mark.proof
@pytest.mark.parametrize("fault", ["refuse", "cut", "shorten", "no-right", "slow"])
def test_a_network_that_fails_costs_one_warning_and_loses_nothing(
    upload, network: FaultyNetwork, tmp_path: Path, fault: str
):
    upload = upload()
    save_checkpoint(tmp_path / "out", 1)
    until(lambda: is_there("checkpoint-1"))
    network.fault = fault
    save_checkpoint(tmp_path / "out", 2)
    if fault != "slow":
        until(lambda: any(line.startswith("warning") for line in upload.lines))
    save_checkpoint(tmp_path / "out", 3)
    assert verified(run_in_store(), tmp_path)
    network.fault = ""
    status, lines = upload.end()
    assert status == 0 and verified(run_in_store(), tmp_path) == ["checkpoint-3"]
    warnings = [line for line in lines if line.startswith("warning")]
    recoveries = [line for line in lines if "answers again" in line]
    assert len(warnings) == len(recoveries) == (0 if fault == "slow" else 1), lines


def test_a_checkpoint_that_the_trainer_removes_while_it_is_sent_arrives(upload, network: FaultyNetwork, tmp_path: Path):
    network.fault = "slow"
    upload = upload()
    place = save_checkpoint(tmp_path / "out", 1, size=1_000_000)
    until(lambda: list((tmp_path / "out/.store").glob("1-*.sent.json")))
    for path in place.iterdir():
        path.unlink()
    place.rmdir()
    until(lambda: is_there("checkpoint-1"))
    assert upload.end()[0] == 0 and verified(run_in_store(), tmp_path) == ["checkpoint-1"]


def test_a_job_ends_in_time_with_a_store_that_is_silent_and_names_what_is_not_there(
    upload, network: FaultyNetwork, tmp_path: Path
):
    network.fault = "refuse"
    save_checkpoint(tmp_path / "out", 7)
    started = time.monotonic()
    status, lines = upload(DIMBA_STORE_PACE="0.01").end("stopped")
    assert status == 1 and time.monotonic() - started < 10
    assert lines[-2].startswith(
        "warning: the time is over, and not in s3://bucket/runs: checkpoint-7 (it does not answ"
    )
    assert lines[-1] == "hint: `dimba resume r` sends it"
    assert state(tmp_path)["pending"] == ["checkpoint-7"]


def test_nothing_is_sent_once_another_machine_continues_the_run(upload, tmp_path: Path):
    upload = upload()
    save_checkpoint(tmp_path / "out", 1)
    until(lambda: is_there("checkpoint-1"))

    def claimed_elsewhere() -> bool:
        run_in_store().put("writer.json", b'{"writer": "elsewhere", "state": "running"}')  # it may renew its own now
        return upload.process.poll() is not None

    until(claimed_elsewhere)
    assert upload.process.wait() == 3 and "another machine continues this run" in upload.lines[-1]
    assert run_in_store().read_json("writer.json")["writer"] == "elsewhere"


def test_a_checkpoint_of_the_same_step_with_other_content_replaces_the_one_that_is_there(upload, tmp_path: Path):
    save_checkpoint(tmp_path / "out", 1)
    assert upload().end()[0] == 0
    for path in (tmp_path / "out" / "checkpoint-1").iterdir():
        path.unlink()
    (tmp_path / "out" / "checkpoint-1").rmdir()
    place = save_checkpoint(tmp_path / "out", 1)
    assert upload().end()[0] == 0 and verified(run_in_store(), tmp_path) == ["checkpoint-1"]
    assert run_in_store().read("checkpoint-1/model.safetensors") == (place / "model.safetensors").read_bytes()


@pytest.mark.proof
def test_after_kills_at_random_moments_what_is_listed_verifies_and_the_newest_arrives(
    upload, network: FaultyNetwork, tmp_path: Path
):
    network.fault, chance = "slow", random.Random(3)
    for step in range(1, 5):
        save_checkpoint(tmp_path / "out", step)
        process = upload()
        time.sleep(0.5 + chance.uniform(0, 0.8))
        process.kill()
        assert len(verified(run_in_store(), tmp_path)) <= 2
    network.fault = ""
    assert upload().end()[0] == 0 and verified(run_in_store(), tmp_path) == ["checkpoint-4"]


def test_an_upload_ends_with_its_supervisor(upload):
    process = upload().process
    process.stdin.close()
    assert process.wait(20) == 1


def test_a_job_that_saved_nothing_does_not_wait_for_a_silent_store(upload, network: FaultyNetwork):
    network.fault = "refuse"
    started = time.monotonic()
    status, lines = upload(DIMBA_STORE_PACE="1").end("failed")
    assert status == 1 and time.monotonic() - started < 20
    assert "not in s3://bucket/runs: the record of the run" in lines[-2]
