"""`dimba chat` and `dimba generate` as a user runs them, with a real model in a process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import NO_ENGINE, QUESTIONS, REPOSITORY, Dimba, write_rows
from tests.wizard.terminal import CTRL_C, Terminal, environment

pytestmark = pytest.mark.proof
ON_CPU = ("--runner", "process", "--gpus", "none")
QUESTION = QUESTIONS[3]["question"]


def likeliest(folder: Path, question: str, tokens: int) -> str:
    """The answer of plain transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    chat = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=tokens, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    output = model.generate(**ids, generation_config=settings)
    text: str = tokenizer.decode(output[0, ids["input_ids"].shape[1] :]).removesuffix(tokenizer.eos_token)
    return text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A folder with a run, in `runs/`, that trained an adapter into `out`."""
    folder = tmp_path_factory.mktemp("talk")
    write_rows(folder / "data.jsonl", QUESTIONS)
    spec = {
        "version": 1,
        "name": "talk",
        "mode": "sft",
        "base_checkpoint": str(tiny_checkpoint),
        "dataset": {"path": "data.jsonl"},
        "method": "lora",
        "training": {"batch_size": 2, "max_steps": 4, "max_length": 128, "learning_rate": 0.01},
        "output_dir": "out",
        "resources": {"gpus": "none"},
        "runner": "process",
    }
    (folder / "job.yaml").write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-m", "dimba", "launch", "job.yaml"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_answer_alone_is_on_stdout(tiny_checkpoint: Path, tmp_path: Path, new_dimba: Dimba):
    done = new_dimba("generate", str(tiny_checkpoint), QUESTION, *ON_CPU, "--max-new-tokens", "12", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == likeliest(tiny_checkpoint, QUESTION, 12) + "\n"
    assert "cut at 12 tokens" in done.stderr


def test_a_run_answers_beside_its_base(run: Path, tiny_checkpoint: Path, new_dimba: Dimba):
    ask = ("generate", "talk", QUESTION, *ON_CPU, "--max-new-tokens", "8", "--against", "base", "--json")
    done = new_dimba(*ask, cwd=run)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["against"]["answer"] == likeliest(tiny_checkpoint, QUESTION, 8)
    assert found["answer"] != found["against"]["answer"]


def test_a_killed_file_of_answers_continues_to_the_same_bytes(run: Path, tmp_path: Path, new_dimba: Dimba):
    rows = write_rows(tmp_path / "rows.jsonl", [{"question": f"What is {n} + 1?"} for n in range(32)])
    ask = ("generate", "talk", "--file", str(rows), *ON_CPU, "--max-new-tokens", "32", "--batch-size", "4")
    more = ("--temperature", "0.8", "--columns", "prompt=question")
    complete = new_dimba(*ask, *more, "--out", str(tmp_path / "complete.jsonl"), cwd=run)
    assert complete.returncode == 0, complete.stderr
    out, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    command = [sys.executable, "-m", "dimba", *ask, *more, "--out", str(out)]
    child = subprocess.Popen(
        command, cwd=run, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 60
    while not (part.exists() and part.read_bytes().count(b"\n") > 8) and time.monotonic() < end:
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert not out.exists() and part.read_bytes().count(b"\n") < 32
    continued = new_dimba(*ask, *more, "--out", str(out), cwd=run)
    assert "rows are answered" in continued.stderr
    assert out.read_bytes() == (tmp_path / "complete.jsonl").read_bytes()


def worker_of(pid: int, seconds: float = 60) -> int:
    """The process in which a command's model is loaded, once it is there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = subprocess.run(
            ["pgrep", "-P", str(pid), "-f", "dimba.trainers.inference"], capture_output=True, check=False
        )
        if found.stdout.strip():
            return int(found.stdout)
        time.sleep(0.05)
    raise AssertionError("no model is loaded")


def has_ended(pid: int, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while (running := Path(f"/proc/{pid}/cmdline").exists()) and time.monotonic() < end:
        time.sleep(0.05)
    return not running


def test_a_chat_on_a_terminal_stops_an_answer_and_leaves_nothing_running(tiny_checkpoint: Path, tmp_path: Path):
    argv = [sys.executable, "-m", "dimba", "chat", str(tiny_checkpoint), *ON_CPU, "--max-new-tokens", "1900"]
    terminal = Terminal(argv, tmp_path, environment(PYTHONPATH=str(REPOSITORY)))
    terminal.wait("you ›", 60)
    worker = worker_of(terminal.child.pid)
    terminal.send("/help\r")
    terminal.wait("/save FILE")
    terminal.send("What is 1 + 1?\r")
    terminal.wait("1 + 1?")
    echoed, end = len(terminal.raw), time.monotonic() + 30
    while len(terminal.raw) < echoed + 40 and time.monotonic() < end:  # an answer has begun
        terminal.read()
    terminal.send(CTRL_C)
    while not terminal.shown().rstrip().endswith("you ›") and time.monotonic() < end:
        terminal.read()
    terminal.send(CTRL_C)  # one that comes too late ends nothing
    terminal.wait("Ctrl-D ends")
    terminal.send("/save kept.jsonl\r")
    terminal.wait("saved:", 30)
    [row] = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [each["role"] for each in row["messages"]] == ["user", "assistant"]
    terminal.send("/quit\r")
    assert terminal.end() == 0
    assert has_ended(worker)


def test_a_chat_that_is_killed_leaves_no_process(tiny_checkpoint: Path, tmp_path: Path):
    command = [sys.executable, "-m", "dimba", "chat", str(tiny_checkpoint), *ON_CPU]
    child = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stdin=subprocess.PIPE, text=True
    )
    worker = worker_of(child.pid)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert has_ended(worker)


def test_a_run_that_is_not_done_names_its_newest_checkpoint(run: Path, tmp_path: Path, dimba: Dimba):
    [folder] = (run / "runs").iterdir()
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    other = tmp_path / "runs" / "other-1"
    other.mkdir(parents=True)
    output = tmp_path / "out"
    ended = {"id": "other-1", "name": "other", "status": "stopped", "output_dir": str(output)}
    (other / "run.json").write_text(json.dumps({**record, **ended}), encoding="utf-8")
    (other / "job.yaml").write_bytes((folder / "job.yaml").read_bytes())
    done = dimba("chat", "other", cwd=tmp_path, **NO_ENGINE)
    assert done.returncode == 2
    assert "run other-1 stopped before it saved a model" in done.stderr and "dimba resume other-1" in done.stderr


def test_a_base_that_has_changed_since_training_is_refused(run: Path, tiny_checkpoint: Path, dimba: Dimba):
    config = tiny_checkpoint / "generation_config.json"
    before = config.read_bytes()
    try:
        config.write_bytes(before + b"\n")
        done = dimba("generate", "talk", QUESTION, *ON_CPU, cwd=run)
    finally:
        config.write_bytes(before)
    assert done.returncode == 2
    assert re.search(r"is not the base that run talk-\S+ was trained on: its files have changed", done.stderr)
