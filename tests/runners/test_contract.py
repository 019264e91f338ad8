"""What every runner does alike: in a container, as a process, and in memory."""

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dimba.host.facts import ImageFacts
from dimba.plan.build import make_plan
from dimba.plan.model import LaunchPlan, Mount
from dimba.runners.process import ProcessRunner
from dimba.runners.protocol import OneShot, Runner
from dimba.spec import parse_spec
from tests.conftest import REPOSITORY, TEST_BASE
from tests.memory_runner import MemoryRunner
from tests.plan.test_plan import FACTS, SPARSE

WAIT = """
import signal, sys, time
def end(*_): print("told to stop", flush=True); sys.exit({status})
signal.signal(signal.SIGTERM, end)
print({text!r}, flush=True)
time.sleep(30)
"""


ECHO = "import sys\nfor line in sys.stdin: print(line.strip()[::-1])"


@dataclass
class Bench:
    """A runner, and how to say `print this and exit so` and `wait to be told` to it."""

    runner: Runner
    says: Callable[[str, int], tuple[str, ...]]
    waits: Callable[[str, int], tuple[str, ...]]
    image: str
    folder: Path
    plan: LaunchPlan

    def start(self, argv: tuple[str, ...], secrets: dict[str, str] | None = None) -> tuple[str, Path]:
        log = self.folder / "attempts" / "1" / "log.txt"
        log.parent.mkdir(parents=True)
        log.touch()
        plan = replace(self.plan, argv=argv)
        name = f"contract-{os.getpid()}-{time.monotonic_ns()}"
        return self.runner.start(plan, run_id=name, attempt=1, log=log, secrets=secrets or {}), log

    def one_shot(self, **changes) -> OneShot:
        return OneShot(uid=os.getuid(), gid=os.getgid(), image=self.image, **changes)


@pytest.fixture(params=["memory", "process", pytest.param("docker", marks=pytest.mark.engine)])
def bench(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "docker":
        from dimba.runners.docker.runner import DockerRunner

        runner: Runner = DockerRunner(request.getfixturevalue("engine"), REPOSITORY)
        python = "python3"
    elif request.param == "process":
        runner, python = ProcessRunner(), sys.executable
    else:
        runner, python = MemoryRunner(), ""
    plan = make_plan(parse_spec(SPARSE.encode(), source="x").spec, FACTS)
    plan = replace(
        plan,
        image=ImageFacts(reference=TEST_BASE, key=None, base=None, base_digest=None, id=TEST_BASE),
        mounts=(Mount(source=str(tmp_path), target=str(tmp_path), read_only=False),),
        working_dir=str(tmp_path),
        gpus=(),
        gpu_devices=(),
        uid=os.getuid(),
        gid=os.getgid(),
    )

    # A job writes its log itself, as the entry point does: nobody on the host has to live for it.
    log = tmp_path / "attempts" / "1" / "log.txt"
    writes_log = f"import os, sys\nif os.path.exists({str(log)!r}): sys.stdout = open({str(log)!r}, 'a')\n"

    def says(text: str, status: int) -> tuple[str, ...]:
        code = f"{writes_log}import sys; print({text!r}, flush=True); sys.exit({status})"
        return (python, "-c", code) if python else ("say", text, str(status))

    def waits(text: str, status: int) -> tuple[str, ...]:
        return (
            (python, "-c", writes_log + WAIT.format(text=text, status=status))
            if python
            else ("wait", text, str(status))
        )

    bench = Bench(runner, says, waits, TEST_BASE, tmp_path, plan)
    yield bench
    if request.param == "docker":
        api = runner.api
        for container in api.containers(all=True, filters={"label": "dimba.run-id"}):
            if any(name.startswith(f"/dimba-contract-{os.getpid()}-") for name in container["Names"]):
                api.remove_container(container["Id"], force=True)


def test_lines_are_followed_and_kept_and_the_status_is_the_jobs_own(bench: Bench):
    job, log = bench.start(bench.says("one\ntwo", 3))
    assert list(bench.runner.follow(job, log)) == ["one", "two"]
    assert log.read_text(encoding="utf-8") == "one\ntwo\n"
    ending = bench.runner.wait(job)
    assert ending is not None and (ending.exit_code, ending.out_of_memory) == (3, False)
    assert not bench.runner.is_running(job)


def test_a_job_that_is_told_to_stop_ends_as_it_wants(bench: Bench):
    job, log = bench.start(bench.waits("ready", 143))
    lines = bench.runner.follow(job, log)
    assert next(lines) == "ready"
    assert bench.runner.is_running(job)
    threading.Thread(target=bench.runner.stop, args=(job, 20)).start()
    list(lines)
    ending = bench.runner.wait(job)
    assert ending is not None and ending.exit_code == 143


def test_a_job_that_is_killed_ends_at_once_with_137(bench: Bench):
    job, log = bench.start(bench.waits("ready", 143))
    assert next(bench.runner.follow(job, log)) == "ready"
    bench.runner.stop(job, 0)
    ending = bench.runner.wait(job)
    assert ending is not None and ending.exit_code == 137
    bench.runner.stop(job, 0)  # once more does no harm


def test_a_short_command_gives_its_output_and_status(bench: Bench):
    lines: list[str] = []
    done = bench.runner.run_once(bench.says("hello\nthere", 0), bench.one_shot(), lines.append)
    assert (done.exit_code, done.text) == (0, "hello\nthere\n")
    assert lines == ["hello", "there"], "handed on as they come"


def test_a_conversation_answers_line_by_line_until_its_input_is_closed(bench: Bench):
    argv = (sys.executable if bench.runner.name == "process" else "python3", "-u", "-c", ECHO)
    with bench.runner.converse(argv, bench.one_shot()) as conversation:
        answers = conversation.lines()
        for text, answer in (("abc", "cba"), ("größer", "reßörg")):
            conversation.send(text)
            assert next(answers) == answer
        assert conversation.wait() == 0
        assert list(answers) == []


def test_a_conversation_that_is_left_early_has_ended(bench: Bench):
    argv = (sys.executable if bench.runner.name == "process" else "python3", "-u", "-c", ECHO)
    with pytest.raises(KeyboardInterrupt), bench.runner.converse(argv, bench.one_shot()) as conversation:
        conversation.send("x")
        assert next(conversation.lines()) == "x"
        raise KeyboardInterrupt
    if bench.runner.name == "docker":
        left = bench.runner.api.containers(all=True, filters={"ancestor": TEST_BASE})
        assert not [each for each in left if ECHO in each["Command"]]


def test_secrets_reach_a_conversation_in_front_of_its_first_line(bench: Bench):
    argv = (sys.executable if bench.runner.name == "process" else "python3", "-u", "-c", ECHO)
    with bench.runner.converse(argv, bench.one_shot(secrets={"HF_TOKEN": "hf_abc"})) as conversation:
        conversation.send("x")
        answers = conversation.lines()
        assert (next(answers), next(answers)) == ('{"HF_TOKEN": "hf_abc"}'[::-1], "x")


def test_a_short_command_that_takes_too_long_is_ended(bench: Bench):
    started = time.monotonic()
    assert bench.runner.run_once(bench.waits("", 0), bench.one_shot(timeout=2)).exit_code is None
    assert time.monotonic() - started < 20
