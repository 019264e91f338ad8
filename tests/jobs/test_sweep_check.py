"""What a sweep plans before its first run starts: every problem at once, and nothing written."""

from pathlib import Path
from typing import Any

import pytest

from dimba.cli.sweep import axes_of
from dimba.common.errors import BadInput, DimbaError
from dimba.jobs.sweep.check import fitting, plan_sweep
from dimba.jobs.sweep.launch import _record_run as record_run
from dimba.jobs.sweep.launch import confirmation, launch_sweep
from dimba.jobs.sweep.planned import PlannedSweep, Request
from dimba.objectives.metrics import METRICS, comparison_warning
from dimba.records import RunFolder
from dimba.records.leases import GpuRequest
from dimba.records.sweep import sweep_of
from tests.conftest import pretend_gpus
from tests.jobs.test_lifecycle import Quiet


@pytest.fixture
def place(job: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The job's folder, as a job for the process runner on a machine with two pretend GPUs."""
    for name, value in pretend_gpus(job / "bin").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DIMBA_LEASES", str(job / "leases"))
    monkeypatch.chdir(job)
    text = (job / "job.yaml").read_text(encoding="utf-8").replace("gpus: none", "gpus: 1")
    (job / "job.yaml").write_text(text + "runner: process\n", encoding="utf-8")
    return job


def request(*axes: str, **more: Any) -> Request:
    return Request(spec=Path("job.yaml"), axes=axes_of(axes), **more)


def plan(*axes: str, **more: Any) -> PlannedSweep:
    return plan_sweep(request(*axes, **more), Quiet(), None)


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if "bin" not in path.parts}


def test_every_combination_is_planned_with_its_own_output_folder_and_nothing_is_written(place: Path):
    before = files(place)
    planned = plan("training.learning_rate=1e-4,2e-4", "lora.r=8,16")
    assert [run.id for run in planned.runs] == [f"{planned.id}-{number}" for number in (1, 2, 3, 4)]
    argv = [" ".join(run.plan.argv) for run in planned.runs]
    assert "--learning-rate 0.0001" in argv[1] and "--lora-r 16" in argv[1]
    outputs = {run.plan.output_dir for run in planned.runs}
    assert place / "out" / planned.id / "learning_rate=1e-4_r=16" in outputs and len(outputs) == 4
    assert {run.context.spec.training.seed for run in planned.runs} == {42}
    assert files(place) == before


@pytest.mark.parametrize(
    ("axes", "more", "causes", "status"),
    [
        (["lora.r=8"], {}, ["1 value"], 2),
        (["lora.r=8,8.0"], {}, ["8.0 is given twice"], 2),
        (["lora.r=8,"], {}, ["the last value is missing"], 2),
        (["lora.r=8,16", "lora.r=4,2"], {}, ["given twice"], 2),
        (["lora.r"], {}, ["expected key=value,value"], 2),
        (["lora.r=[8,16"], {}, ["not valid YAML"], 2),
        (["output_dir=a,b"], {}, ["a folder of its own"], 2),
        (["mode=sft,dpo"], {}, ["no metric to compare"], 2),
        (["lora.r=8,16"], {"overrides": ("lora.r=8",)}, ["given by --set and by --sweep"], 2),
        (["lora.r=0,8", "training.lerning_rate=1,2"], {}, ["--sweep lora.r: expected", "did you mean"], 2),
        (["dataset.path=data.jsonl,no.jsonl", "base_checkpoint=./no,base"], {}, ["no.jsonl does not", "./no"], 2),
        (["resources.gpus=1,3"], {}, ["this machine has 2", "(with gpus=3)"], 3),
        (["lora.r=8,16"], {"overrides": ("method=full",)}, ["--sweep lora.r", "change nothing"], 2),
        (["kubernetes.cpus=1,2"], {}, ["change nothing"], 2),
        (["lora.r=8,16"], {"stop_worst": True}, ["none are held out"], 2),
        (["trainer_args.validation-split=0.1,0.2"], {"stop_worst": True}, ["in one measure on the same rows"], 2),
        (["output_store=file:///a,file:///b"], {"trust": True}, ["in the spec's store"], 2),
        (["method=full,lora", "lora.r=8,16"], {}, ["method=full, r=8 and method=full, r=16 would train the same"], 2),
        (["lora.r=" + ",".join(map(str, range(1, 300)))], {}, ["299 runs; 256 at most"], 2),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_written(
    place: Path, axes: list[str], more: dict[str, Any], causes: list[str], status: int
):
    before = files(place)
    with pytest.raises(DimbaError) as raised:
        launch_sweep(request(*axes, **more), Quiet())
    assert raised.value.exit_status == status
    assert all(cause in str(raised.value) for cause in causes), str(raised.value)
    assert files(place) == before


def test_a_key_that_only_the_sweep_gives_may_be_absent_from_the_spec(place: Path):
    text = (place / "job.yaml").read_text(encoding="utf-8")
    (place / "job.yaml").write_text(text.replace("method: lora\n", ""), encoding="utf-8")
    assert [run.plan.method for run in plan("method=lora,full").runs] == ["lora", "full"]
    with pytest.raises(BadInput, match=r"--sweep method: `lorra` is not one of"):
        plan("method=lorra,full")
    with pytest.raises(BadInput, match="method: required"):
        plan("lora.r=8,16")


def test_held_out_rows_of_swept_shares_are_what_the_runs_are_compared_on(place: Path):
    planned = plan("trainer_args.validation-split=0.1,0.2")
    assert planned.metric.key == "eval_loss"


@pytest.mark.parametrize(
    ("axis", "warns"),
    [
        ("training.seed=1,2", True),
        ("trainer_args.train-on=all,last", True),
        ("dataset.path=data.jsonl,more.jsonl", True),
        ("trainer_args={validation-split: 0.2},{validation-split: 3}", True),
        ("training.learning_rate=1e-4,2e-4", False),
    ],
)
def test_runs_that_are_measured_on_other_rows_are_compared_with_a_warning(place: Path, axis: str, warns: bool):
    overrides = () if "split" in axis else ("trainer_args.validation-split=0.2",)
    (place / "more.jsonl").write_bytes((place / "data.jsonl").read_bytes())
    said = list(confirmation(plan(axis, overrides=overrides), request(axis, overrides=overrides)))
    assert any("does not compare" in line and axis.split("=")[0] in line for line in said) == warns


@pytest.mark.parametrize("key", ["trainer_args.beta", "trainer_args.loss-type"])
def test_what_makes_the_loss_is_part_of_a_loss_and_not_of_a_reward(key: str):
    warned = [name for name, metric in METRICS.items() if comparison_warning(metric, [key])]
    assert warned == ["eval_loss", "loss"]


def test_the_best_value_counts_for_the_runs_alone_that_save_their_best(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dimba.jobs.sweep.launch.spawn_supervisor", lambda folder: None)
    overrides = ("trainer_args.validation-split=0.2",)
    folder = launch_sweep(request("training.save_best=true,false", overrides=overrides), Quiet())
    assert [run.by_best for run in sweep_of(folder).runs] == [True, False]


def test_a_swept_value_that_is_a_secret_is_refused_by_its_own_flag(place: Path):
    with pytest.raises(BadInput, match=r"--sweep container\.env\[0\]: `HF_TOKEN` is written") as refused:
        plan("container.env=[A=1],[HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz123456]", trust=True)
    assert "output_dir" not in str(refused.value) and "hf_abc" not in str(refused.value)


def test_a_store_that_cannot_be_used_is_refused_before_the_sweep_is_on_record(place: Path):
    before = files(place)
    overrides = (f"output_store=file://{place}/job.yaml/store",)
    with pytest.raises(DimbaError, match="Not a directory"):
        launch_sweep(request("lora.r=8,16", overrides=overrides), Quiet())
    assert {path for path in files(place) - before if path.parts[0] != "leases"} == {Path("runs")}


def test_a_problem_that_all_combinations_share_is_reported_once(place: Path):
    (place / "data.jsonl").unlink()
    with pytest.raises(DimbaError) as raised:
        plan("training.learning_rate=1e-4,2e-4", "lora.r=8,16")
    assert str(raised.value).count("does not exist") == 1 and "(with" not in str(raised.value)


def test_a_key_that_the_trainer_has_no_flag_for_is_refused(place: Path):
    text = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--base-checkpoint')\n"
    text += "p.add_argument('--dataset')\np.add_argument('--output-dir')\np.add_argument('--lora-r')\n"
    (place / "mine.py").write_text(f"{text}p.add_argument('--use-lora', action='store_true')\np.parse_args()\n")
    overrides = ("trainer=mine.py",)
    assert len(plan("lora.r=8,16", overrides=overrides, trust=True).runs) == 2
    with pytest.raises(BadInput, match=r"lora\.alpha: the trainer has no flag"):
        plan("lora.alpha=8,16", "lora.r=8,16", overrides=overrides, trust=True)


def test_two_run_at_a_time_on_two_gpus_and_one_where_each_takes_all(place: Path):
    one, every = plan("lora.r=8,16,32,64"), plan("lora.r=8,16,32,64", overrides=("resources.gpus=all",))
    assert (one.at_once, one.ahead, every.at_once, every.ahead) == (2, 2, 1, 1)
    said = list(confirmation(every, request("lora.r=8,16")))
    assert "4 runs, 1 at a time (2 GPUs each)" in said[0]
    assert any("`--set resources.gpus=1` runs up to 2 of them at a time" in line for line in said)
    assert plan("lora.r=8,16,32", at_once=1).at_once == 1


def test_on_the_cpu_they_run_one_after_another_unless_asked_for_more(place: Path):
    cpu = ("resources.gpus=none",)
    one, two = plan("lora.r=8,16,32", overrides=cpu), plan("lora.r=8,16,32", overrides=cpu, at_once=2)
    assert (one.at_once, one.ahead, two.at_once, two.ahead) == (1, 0, 2, 0)
    assert any("--sweep-at-once 2" in line for line in confirmation(one, request("lora.r=8,16")))


def test_runs_that_name_one_gpu_do_not_run_at_the_same_time():
    any_of_two = GpuRequest(candidates=("a", "b"), count=1)
    assert fitting([any_of_two] * 5) == 2
    assert fitting([GpuRequest(candidates=("a",), count=1)] * 3) == 1
    assert fitting([any_of_two, GpuRequest(candidates=("a", "b"), count=2)]) == 1


def test_a_launch_leaves_a_queued_run_on_record_for_each_combination(place: Path, monkeypatch: pytest.MonkeyPatch):
    spawned: list[str] = []
    monkeypatch.setattr("dimba.jobs.sweep.launch.spawn_supervisor", lambda folder: spawned.append(folder.id))
    folder = launch_sweep(request("lora.r=4,8,16,32", at_most=2, seed=3), Quiet())
    sweep = sweep_of(folder)
    assert spawned == [folder.id] and sweep.draw_seed == 3 and sweep.combinations == 4 and len(sweep.runs) == 2
    for run in sweep.runs:
        record = RunFolder(folder.path.parent / run.id, 0, 0).record()
        assert (record.status, record.group, record.launcher) == ("queued", folder.id, None)
        assert record.overrides[0] == f"lora.r={run.values[0]}" and record.base_hash and record.data_hash
        assert (Path(record.output_dir) / "dimba-owner.json").exists()


def test_a_store_that_cannot_be_used_ends_the_launch_and_leaves_nothing(place: Path):
    (place / "store").write_text("a file", encoding="utf-8")
    before = files(place)
    store = (f"output_store=file://{place}/store",)
    with pytest.raises(DimbaError, match="output_store"):
        launch_sweep(request("lora.r=4,8", overrides=store, trust=True), Quiet())
    left = {path for path in files(place) - before if path.parts[0] != "leases"}
    assert left <= {Path("runs")}


def test_a_launch_that_fails_half_way_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch):
    before = files(place)
    written: list[Any] = []

    def full(*args: Any) -> Any:
        written.append(args)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        return record_run(*args)

    monkeypatch.setattr("dimba.jobs.sweep.launch._record_run", full)
    with pytest.raises(OSError, match="No space"):
        launch_sweep(request("lora.r=4,8,16"), Quiet())
    left = {path for path in files(place) - before if path.parts[0] != "leases"}
    assert left == {Path("runs")} and len(written) == 2
