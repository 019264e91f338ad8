"""Training never waits for a store, and never fails because of one."""

import time
from pathlib import Path

from tests.supervisor.conftest import wait_for


def test_a_trainer_succeeds_though_its_store_cannot_be_reached(entry, tmp_path: Path):
    run = {"DIMBA_RUN_ID": "r", "DIMBA_OUTPUT_DIR": str(tmp_path / "out"), "DIMBA_STORE_PACE": "0.001"}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"x")
    started = time.monotonic()
    nowhere = {"DIMBA_STORE": "s3://bucket/x", "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_REGION": "x"}
    status, output = wait_for(
        entry("print('trained')", **run, **nowhere, AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s")
    )
    assert status == 0 and "trained" in output and time.monotonic() - started < 20
    assert "store: warning: the time is over, and not in s3://bucket/x: model" in output
    assert "store: hint: `dimba resume r` sends it" in output


def test_an_upload_that_is_killed_is_started_again_and_ends_with_the_job(entry, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "shelf").mkdir()
    kill = "import os, signal, time, pathlib\n"
    kill += "mine = lambda: [p for p in pathlib.Path('/proc').glob('[0-9]*') if b'dimba.trainers.store' in read(p)]\n"
    kill += "def read(p):\n    try: return (p / 'cmdline').read_bytes() if os.environ['DIMBA_RUN_ID'].encode() in "
    kill += "(p / 'environ').read_bytes() else b''\n    except OSError: return b''\n"
    kill += "while not mine(): time.sleep(0.02)\n"
    kill += "os.kill(int(mine()[0].name), signal.SIGKILL)\ntime.sleep(1)\nprint(len(mine()), 'runs')\n"
    run = {"DIMBA_RUN_ID": f"r-{tmp_path.name}", "DIMBA_OUTPUT_DIR": str(tmp_path / "out"), "DIMBA_STORE_PACE": "0.01"}
    (tmp_path / "out" / "model.safetensors").write_bytes(b"x")
    status, output = wait_for(entry(kill, **run, DIMBA_STORE=f"file://{tmp_path}/shelf"))
    assert status == 0 and "1 runs" in output and "ended with status -9, and is started again" in output
    assert "model is in the store" in output
    assert (tmp_path / "shelf" / run["DIMBA_RUN_ID"] / "model" / "model.safetensors").read_bytes() == b"x"


def test_a_further_machine_of_a_stopped_job_stays_until_the_first_has_sent_its_checkpoint(entry, tmp_path: Path):
    nodes = {"DIMBA_NODES": "2", "DIMBA_NODE_RANK": "1", "DIMBA_MAIN_ADDRESS": "x", "DIMBA_MAIN_PORT": "1"}
    process = entry("import sys; sys.exit(143)", **nodes, DIMBA_STORE="s3://bucket/x")
    while not (tmp_path / "exit-1.json").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    assert process.poll() is None
    (tmp_path / "exit.json").write_text("{}", encoding="utf-8")
    assert wait_for(process)[0] == 143
