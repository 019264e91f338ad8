"""The job's first process forwards signals to the ranks and returns the exit status of the rank that failed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dimba.common.contract import EXIT_NO_GPU
from dimba.supervisor.accelerate_config import with_configuration
from tests.conftest import REPOSITORY
from tests.supervisor.conftest import LAUNCHER, ends, wait_for


def test_the_trainers_exit_status_is_returned_and_recorded(entry, tmp_path: Path):
    assert wait_for(entry("import sys; print(sys.argv[1:]); sys.exit(3)")) == (3, "['--flag']\n")
    assert json.loads((tmp_path / "exit.json").read_text()) == {"exit_code": 3, "reason": "trainer_error", "line": ""}


def test_a_trainer_that_succeeds_exits_with_0_and_prints_nothing_else(entry):
    assert wait_for(entry("pass")) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_trainer_killed_by_signal_n_exits_with_128_plus_n(entry, number: int):
    assert wait_for(entry(f"import os; os.kill(os.getpid(), {number})"))[0] == 128 + number


def test_sigterm_reaches_the_trainer_which_saves_and_chooses_its_exit_status(entry):
    trainer = "import signal, sys, time\n"
    trainer += "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(143)))\n"
    trainer += "print('ready', flush=True); time.sleep(30)"
    process = entry(trainer)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert wait_for(process) == (143, "saved\n")


def test_a_sigterm_before_the_first_rank_starts_stops_the_job(entry, tmp_path: Path):
    (tmp_path / "launcher.py").write_text("import time; time.sleep(1)\n" + LAUNCHER, encoding="utf-8")
    process = entry("import time; time.sleep(30)")
    while not catches(process.pid, signal.SIGTERM):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert wait_for(process)[0] == 143


def catches(pid: int, signum: int) -> bool:
    (mask,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(mask.split()[1], 16) >> (signum - 1) & 1)


def test_a_trainer_dies_with_its_rank(entry, tmp_path: Path):
    process = entry("import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(30)")
    trainer, rank = map(int, process.stdout.readline().split())
    os.kill(rank, signal.SIGKILL)
    assert wait_for(process)[0] == 137
    assert ends(trainer)


def test_no_rank_outlives_a_kill_of_the_first_process(entry):
    process = entry("import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(30)")
    pids = [int(each) for each in process.stdout.readline().split()]
    process.kill()
    assert all(map(ends, pids))


def test_gpus_that_do_not_work_abort_the_start(entry):
    status, output = wait_for(entry("print('trained')", DIMBA_GPU_COUNT="1"))
    if "trained" in output:
        pytest.skip("this machine has a working GPU")
    assert status == EXIT_NO_GPU and "1 GPU(s) requested: " in output


def test_allow_cpu_trains_on_the_cpu_with_a_warning(entry):
    code = "import os; print(os.environ['ACCELERATE_USE_CPU'])"
    status, output = wait_for(entry(code, DIMBA_GPU_COUNT="99", DIMBA_ALLOW_CPU="1"))
    assert status == 0 and "on the CPU instead" in output and output.endswith("true\n")


def test_secrets_from_stdin_reach_the_trainer(entry):
    code = "import os; print(os.environ['HF_TOKEN'], 'DIMBA_SECRETS_ON_STDIN' in os.environ)"
    process = entry(code, json.dumps({"HF_TOKEN": "hush"}) + "\n", DIMBA_SECRETS_ON_STDIN="1")
    assert wait_for(process) == (0, "hush False\n")


def test_unusable_data_abort_the_job_before_its_ranks_start(tmp_path: Path):
    (tmp_path / "ranks.py").write_text("print('ranks')", encoding="utf-8")
    command = [sys.executable, "-m", "dimba.supervisor.entry", "--prepare", sys.executable, str(tmp_path / "ranks.py")]
    flags = ["--base-checkpoint", str(tmp_path / "nowhere"), "--dataset", "./nothing.jsonl", "--output-dir", "out"]
    done = subprocess.run(
        [*command, "-m", "dimba.supervisor.rank", "scripts/finetuning/finetune_sft.py", *flags],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "DIMBA_ATTEMPT_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "nowhere does not exist" in done.stdout and "ranks" not in done.stdout
    word = json.loads((tmp_path / "exit.json").read_text(encoding="utf-8"))
    assert (word["exit_code"], word["reason"], word["status"]) == (2, "refused", 2) and word["hint"]


def test_accelerate_reads_a_configuration_written_from_its_flags(tmp_path: Path):
    flags = "--quiet --num_machines 1 --num_processes 2 --mixed_precision bf16 --multi_gpu --main_process_port 0"
    argv = ["accelerate", "launch", *flags.split(), "-m", "dimba.supervisor.rank", "x.py", "--num_processes", "9"]
    command = with_configuration(argv, tmp_path / "accelerate.json")
    launch = [sys.executable, "-P", "-m", "accelerate.commands.launch"]
    assert command == [*launch, "--config_file", str(tmp_path / "accelerate.json"), *argv[2:]]
    written = json.loads((tmp_path / "accelerate.json").read_text())
    assert (written["distributed_type"], written["num_processes"]) == ("MULTI_GPU", 2)
    assert written["mixed_precision"] == "bf16" and not written["use_cpu"]
    assert with_configuration(["python", "x.py"], tmp_path / "none") == ["python", "x.py"]


def test_a_job_whose_launcher_ended_before_sending_secrets_does_not_start():
    command = [sys.executable, "-m", "dimba.supervisor.entry", "touch", "started"]
    environment = {**os.environ, "DIMBA_SECRETS_ON_STDIN": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "`dimba resume`" in done.stderr and "Traceback" not in done.stderr
