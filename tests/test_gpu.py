"""The checks for a GPU: each is a process with a limit, its results stay, and a second call continues."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.gpu import accept, machine, runner, wheels
from scripts.gpu.parts import PARTS, Check, function_of
from scripts.gpu.results import ABSENT, RIGHT, WRONG, Result, read, table, write
from scripts.gpu.slim import slim
from scripts.gpu.wheels import is_base, pins
from tests.conftest import REPOSITORY

ONE = Result(part="correct", check="sft", case="full bf16", outcome=RIGHT, seconds=2.5, measured={"away": 0.001})
CHECKS = """\
import sys, time
sys.path.insert(0, {repository!r})
from pathlib import Path
from scripts.gpu.results import Result, write
name, folder = sys.argv[1], Path(sys.argv[2])
write(folder, Result(part="p", check=name, case="before", outcome="right"))
if name == "hangs":
    time.sleep(60)
if name == "breaks":
    raise SystemExit(9)
"""


def test_results_stay_on_the_disk_and_a_line_that_was_cut_off_is_none(tmp_path: Path):
    write(tmp_path, ONE)
    with (tmp_path / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"part": "corr')
    assert list(read(tmp_path)) == [ONE]


def test_the_table_counts_the_outcomes_and_shows_the_numbers():
    shown = table([ONE, Result(part="correct", check="attention", case="flash", outcome=ABSENT, detail="no package")])
    assert "away 0.001" in shown and "1 right, 0 wrong, 0 failed, 0 time-out, 1 not possible here" in shown


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A part of three checks: one ends, one breaks off, one hangs."""
    script = tmp_path / "checks.py"
    script.write_text(CHECKS.format(repository=str(REPOSITORY)), encoding="utf-8")
    parts = {"p": (Check("ends", 30), Check("breaks", 30), Check("hangs", 1))}
    for module in (accept, runner):
        monkeypatch.setattr(module, "PARTS", parts)
    monkeypatch.setattr(accept, "look", lambda device: ({"torch": "?"}, ""))
    monkeypatch.setattr(
        runner, "command_of", lambda context: [sys.executable, str(script), context.check, str(context.folder)]
    )
    return tmp_path / "results"


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *flags: str) -> int:
    monkeypatch.setattr(sys, "argv", ["accept.py", "--folder", str(folder), "--device", "cpu", *flags])
    return accept.main()


def test_a_check_that_breaks_off_or_hangs_is_a_result_and_the_others_run(part: Path, monkeypatch, capsys):
    assert run(monkeypatch, part) == 1
    found = {(each.check, each.case): each.outcome for each in read(part)}
    assert [found[name, "before"] for name in ("ends", "breaks", "hangs")] == [RIGHT] * 3
    assert (found["breaks", "all"], found["hangs", "all"]) == ("failed", "time-out")
    assert "exit status 9" in capsys.readouterr().out


def test_a_second_call_runs_what_has_not_ended_only(part: Path, monkeypatch):
    write(part_of(part), Result(part="p", check="hangs", case="end", outcome=RIGHT))
    assert run(monkeypatch, part, "--resume") == 1
    assert not [each for each in read(part) if (each.check, each.case) == ("hangs", "before")]
    assert run(monkeypatch, part, "--resume") == 1, "the failure of the first call stays"
    assert len([each for each in read(part) if (each.check, each.case) == ("ends", "before")]) == 1


def test_a_continued_call_forgets_the_answers_of_a_check_that_was_ended(part: Path, monkeypatch):
    write(part_of(part), Result(part="p", check="ends", case="before", outcome=WRONG))
    run(monkeypatch, part, "--resume")
    assert [each.outcome for each in read(part) if each.check == "ends"] == [RIGHT, RIGHT]


def test_a_check_that_continues_keeps_its_answers(part: Path, monkeypatch):
    monkeypatch.setattr(runner, "PARTS", {"p": (Check("ends", 30, continues=True), Check("breaks", 30))})
    for name in ("ends", "breaks"):
        write(part_of(part), Result(part="p", check=name, case="first", outcome=WRONG))
    runner.prepare(part, keep=True)
    assert [each.check for each in read(part)] == ["ends"]


def part_of(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize(("needed", "named"), [("no_such_package", "missing"), ("pytest", "pytest>=99")])
def test_a_missing_or_old_package_is_named_before_anything_runs(tmp_path: Path, monkeypatch, capsys, needed, named):
    monkeypatch.setattr(machine, "NEEDED", {"torch": "2", needed: "99"})
    assert run(monkeypatch, tmp_path / "results") == 3
    said = capsys.readouterr().err
    assert f"{needed}>=99" in said and named in said and "--wheels" in said and not (tmp_path / "results").exists()


def test_what_an_installed_package_requires_is_looked_at_too(monkeypatch):
    monkeypatch.setattr(machine, "version", lambda name: "0.1")
    assert any(each.startswith("pytest needs pluggy") and "0.1" in each for each in machine.unmet(["pytest"]))


def test_a_gpu_that_torch_does_not_see_ends_the_start(tmp_path: Path, monkeypatch, capsys):
    facts = {"torch": "2.11.0+cu130", "cards": [], "no_cards": "no driver", "compiler": ""}
    done = subprocess.CompletedProcess([], 0, json.dumps(facts), "")
    monkeypatch.setattr(machine.subprocess, "run", lambda *_, **__: done)
    assert machine.look("cuda") == (facts, "torch 2.11.0+cu130 sees no GPU: no driver")
    assert machine.look("cpu") == (facts, "")


def test_a_slim_wheel_installs_and_lacks_what_no_check_uses(tmp_path: Path):
    wheel = tmp_path / "bitsandbytes-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for name in ("libbitsandbytes_cuda118.so", "libbitsandbytes_cuda130.so", "libbitsandbytes_cpu.so"):
            file.writestr(f"bitsandbytes/{name}", "x" * 200_000)
        file.writestr(
            "bitsandbytes-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr("bitsandbytes-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: bitsandbytes\nVersion: 1\n")
        file.writestr("bitsandbytes-1.dist-info/RECORD", "")
    slim(wheel)
    assert machine.install(tmp_path, tmp_path / "packages") == ""
    found = {each.name for each in (tmp_path / "packages" / "bitsandbytes").iterdir()}
    assert found == {"libbitsandbytes_cuda130.so", "libbitsandbytes_cpu.so"}


def test_the_wheels_for_a_bare_machine_leave_out_torch_and_its_libraries():
    wanted = [pin.partition("==")[0] for pin in pins("3.12") if not is_base(pin)]
    assert {"transformers", "trl", "peft", "datasets"} <= set(wanted)
    assert not [each for each in wanted if each.startswith(("torch", "nvidia", "cuda", "triton", "numpy"))]


def test_every_check_of_the_four_parts_is_a_function():
    assert list(PARTS) == ["correct", "memory", "speed", "launcher"]
    assert all(callable(function_of(part, check.name)) for part in ("memory", "launcher") for check in PARTS[part])


@pytest.mark.proof
def test_the_checks_are_right_on_the_cpu(tmp_path: Path):
    flags = ["--device", "cpu", "--tiny", "--folder", str(tmp_path)]
    command = [sys.executable, "scripts/gpu/accept.py", *flags]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    results = list(read(tmp_path))
    assert done.returncode == 0 and not [each for each in results if each.outcome == WRONG], done.stdout
    wanted = {("machine", "facts"), *((part, each.name) for part in PARTS for each in PARTS[part])}
    assert {(each.part, each.check) for each in results} == wanted
    summaries = [line for line in done.stdout.splitlines() if line.startswith(tuple(f"{part}: " for part in PARTS))]
    assert [line.partition(":")[0] for line in summaries] == list(PARTS)


def test_there_are_24_combinations_of_memory_and_some_cannot_fit():
    from scripts.gpu.memory_cases import CASES

    assert len({case.name for case in CASES}) == len(CASES) >= 24
    assert {case.mode for case in CASES} == {"sft", "dpo", "grpo"}
    assert {case.method for case in CASES} == {"full", "lora", "qlora"}
    assert {"on", "off", "offload", 16} <= {case.checkpointing for case in CASES}


def test_the_terms_that_fit_the_measurements_are_printed(tmp_path: Path):
    from scripts.gpu.context import Context
    from scripts.gpu.memory import fitted

    context = Context("memory", "estimate", tmp_path, "cuda", False)
    numbers = {"ratio": 1.0, "formula": 1.01, "fragmented": 0.03, "context": 700}
    results = [
        context.result("a", RIGHT, **numbers),
        context.result("b", RIGHT, **{**numbers, "context": 720, "ratio": 0.97}),
        context.result("c", RIGHT, "does not fit", estimated=200_000),
    ]
    found = fitted(context, results).measured
    assert (found["_CONTEXT"], found["_FRAGMENTED"], found["least"]) == (720, 0.03, 0.97)
    assert fitted(context, results[2:]).outcome == ABSENT


@pytest.mark.parametrize(
    ("share", "problem", "room", "outcome"),
    [
        (1.0, "", 80, RIGHT),
        (0.94, "", 80, WRONG),  # the job needs more than was estimated
        (1.11, "", 80, WRONG),
        (1.0, "CUDA out of memory", 80, WRONG),
        (1.0, "CUDA out of memory", 1, RIGHT),
    ],
)
def test_a_measurement_is_right_within_the_figure_and_a_refusal_where_it_was_estimated(
    share: float, problem: str, room: int, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from scripts.bench.memory import model_of
    from scripts.gpu import memory_run
    from scripts.gpu.context import Context
    from scripts.gpu.memory_cases import TINY_CASES, estimate_of

    case = TINY_CASES[1]
    estimate = estimate_of(case, model_of(case)[1], 120)
    whole = int(estimate.total / share)
    peak = memory_run.Peak(reserved=whole - estimate.context, allocated=whole // 4, context=estimate.context)
    monkeypatch.setattr(memory_run, "_trained", lambda *_: ([], 120, problem) if problem else ([2.0], 120, ""))
    monkeypatch.setattr(memory_run, "_peak", lambda _before: peak)
    monkeypatch.setattr(memory_run, "_room", lambda: room << 20)
    found = memory_run._measured(case, Context("memory", "estimate", tmp_path, "cuda", True), 0)
    assert found.outcome == outcome, found
    assert problem or found.measured["ratio"] == pytest.approx(share, abs=0.001)


def test_flops_of_a_token_are_six_per_weight_and_four_under_an_adapter():
    from scripts.gpu.speed import flops
    from scripts.gpu.speed_jobs import SpeedCase

    full, lora = (flops(SpeedCase("llama-1B", method, 4, 2048)) for method in ("full", "lora"))
    attention = 6 * 16 * 2048 * 2048
    assert full == pytest.approx(6 * 1.236e9 + attention, rel=0.002)
    assert lora == pytest.approx(4 * 1.236e9 + attention, rel=0.002)


MEASURES = """\
import sys
sys.path.insert(0, {repository!r})
from pathlib import Path
from scripts.gpu.results import RIGHT, Result, read, write
folder, names = Path(sys.argv[1]), {names!r}
done = [each.case for each in read(folder)]
for name in [each for each in names if each not in done][:2]:
    if name == names[1]:
        raise SystemExit(7)
    write(folder, Result(part="memory", check="estimate", case=name, outcome=RIGHT))
"""


def test_a_combination_that_crashes_is_a_result_and_another_process_measures_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from scripts.gpu import memory, memory_run
    from scripts.gpu.context import Context

    context = Context("memory", "estimate", tmp_path, "cpu", True)
    names = [case.name for case in memory_run.cases_of(context)]
    script = tmp_path / "measures.py"
    script.write_text(MEASURES.format(repository=str(REPOSITORY), names=names), encoding="utf-8")
    monkeypatch.setattr(memory, "_command", lambda *_: [sys.executable, str(script), str(tmp_path)])
    left = list(memory.estimate(context))
    assert [each.outcome for each in left] == [ABSENT], "what was fitted: there are no measurements of a GPU"
    assert {each.case: each.outcome for each in context.answers()} == {
        name: "failed" if name == names[1] else RIGHT for name in names
    }


def test_a_bare_machine_gets_the_kernels_of_the_image():
    name, version = wheels._KERNELS[0].split("==")
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    assert name in dockerfile and f"echo =={version})" in dockerfile and wheels._KERNELS[0] in pins("3.12")
