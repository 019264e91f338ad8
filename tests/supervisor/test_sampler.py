"""The server that samples on GPUs of its own has them alone, and does not outlive the job, however that ends."""

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.supervisor.conftest import ends, wait_for

# Like vLLM's: it starts a process of its own, which ignores SIGTERM.
SERVER = """
import os, subprocess, sys, time
child = "import signal, time; signal.signal(15, signal.SIG_IGN); print('child', flush=True); time.sleep(60)"
worker = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
worker.stdout.readline()
print("GPUs", os.environ["CUDA_VISIBLE_DEVICES"], sys.argv[1:4], os.environ["HF_TOKEN"], flush=True)
open(sys.argv[0] + ".pids", "w").write(f"{os.getpid()} {worker.pid}")
time.sleep(60)
"""
WAIT = """
import os, pathlib, time
pids = pathlib.Path(os.environ["SERVER"] + ".pids")
while not pids.exists() or not pids.read_text(): time.sleep(0.02)
"""


@pytest.fixture
def served(entry, tmp_path: Path):
    def start(trainer: str, server: str = SERVER):
        script = tmp_path / "server.py"
        script.write_text(server, encoding="utf-8")
        environment = {
            "CUDA_VISIBLE_DEVICES": "4,GPU-a,7",
            "DIMBA_SAMPLER": json.dumps([sys.executable, str(script)]),
            "DIMBA_SAMPLER_GPUS": "1",
            "DIMBA_SECRETS_ON_STDIN": "1",
            "SERVER": str(script),
        }
        return entry(trainer, json.dumps({"HF_TOKEN": "hushhush"}) + "\n", **environment)

    return start


def pids(tmp_path: Path) -> list[int]:
    return [int(each) for each in (tmp_path / "server.py.pids").read_text().split()]


def test_the_server_has_the_last_gpus_the_ranks_the_others_and_both_end_together(served, tmp_path: Path):
    shown = "import os\nprint(*(os.environ[n] for n in ('CUDA_VISIBLE_DEVICES', 'DIMBA_SAMPLER_URL', 'no_proxy')))"
    status, output = wait_for(served(WAIT + shown))
    assert status == 0 and "sampler: GPUs 7 ['--host', '127.0.0.1', '--port'] ***\n" in output
    assert "4,GPU-a http://127.0.0.1:" in output and output.rstrip().endswith("127.0.0.1")
    assert all(map(ends, pids(tmp_path)))


def test_no_process_of_the_server_outlives_a_kill_of_the_first_process(served, tmp_path: Path):
    process = served(WAIT + "print('up', flush=True); time.sleep(60)")
    while process.stdout.readline() != "up\n":
        pass
    process.kill()
    assert all(map(ends, pids(tmp_path)))


def test_the_ranks_save_before_the_server_ends(served, tmp_path: Path):
    trainer = "import os, signal, sys\n"
    trainer += (
        "signal.signal(15, lambda *_: (os.kill(int(pids.read_text().split()[0]), 0), print('saved'), sys.exit(143)))\n"
    )
    process = served(WAIT + trainer + "print('up', flush=True); time.sleep(60)")
    while process.stdout.readline() != "up\n":
        pass
    process.send_signal(signal.SIGTERM)
    status, output = wait_for(process)
    assert status == 143 and "saved" in output and all(map(ends, pids(tmp_path)))


def test_a_job_whose_server_ends_does_not_wait_for_it(served, tmp_path: Path):
    server = "print('ValueError: no room for the cache', flush=True); raise SystemExit(3)"
    status, output = wait_for(served("import time; time.sleep(60)", server))
    assert status and "sampler: ValueError: no room for the cache\n" in output
    assert "error: the server that samples ended with status 3" in output
    assert json.loads((tmp_path / "exit.json").read_text())["reason"] == "trainer_error"
