"""dimba from a wheel, in a fresh environment and an empty folder: as from a checkout."""

import json
from pathlib import Path

import pytest

from dimba.host.build_context import gather_context
from tests.commands.report.runs import curve, write_run
from tests.conftest import NO_ENGINE, QUESTIONS, REPOSITORY, write_rows
from tests.wheel import Installed, build_wheel, install

pytestmark = pytest.mark.proof
SCRIPT = "scripts/finetuning/finetune_sft.py"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def launcher(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment that has dimba's own dependencies and no training packages."""
    return install(wheel, tmp_path_factory.mktemp("launcher"), trains=False)


@pytest.fixture(scope="module")
def trainer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment that has the training packages too."""
    return install(wheel, tmp_path_factory.mktemp("trainer"), trains=True)


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """The folder of a user, with rows and a base, and nothing of dimba's."""
    (tmp_path / "base").symlink_to(tiny_checkpoint)
    write_rows(tmp_path / "rows.jsonl", QUESTIONS)
    return tmp_path


def wizard(dimba: Installed, folder: Path) -> None:
    flags = "--base-checkpoint base --dataset rows.jsonl --method lora --batch-size 2 --max-steps 2 --gpus none"
    done = dimba.run(
        "wizard", "--defaults", *flags.split(), "--no-launch", "--out", "job.yaml", cwd=folder, **NO_ENGINE
    )
    assert done.returncode == 0, done.stderr


def test_the_image_of_a_wheel_is_the_image_of_its_checkout(launcher: Installed):
    packaged = launcher.package / "_project"
    assert gather_context(packaged).digest == gather_context(REPOSITORY).digest
    assert {path.name for path in (packaged / "docker" / "certs").iterdir()} == {".gitkeep"}


def test_wizard_plan_and_launch_train_with_the_shipped_trainer(trainer: Installed, folder: Path):
    wizard(trainer, folder)
    assert trainer.run("validate", "job.yaml", cwd=folder).returncode == 0
    plan = json.loads(trainer.run("plan", "job.yaml", "--json", cwd=folder, **NO_ENGINE).stdout)
    assert str(trainer.package / "_project" / SCRIPT) in plan["argv"] and plan["trust"] == []
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    overrides = ("--set", f"base_checkpoint={folder}/base", "--set", f"dataset.path={folder}/rows.jsonl")
    done = trainer.run("launch", "../job.yaml", *overrides, cwd=elsewhere, PATH="/usr/bin:/bin", **NO_ENGINE)
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "checkpoints/finetune_sft_lora/adapter_model.safetensors").is_file()
    (record,) = (json.loads(path.read_text()) for path in elsewhere.glob("runs/*/run.json"))
    assert record["git_revision"] is None and record["code_hash"].startswith("sha256:")


def test_without_the_training_packages_plan_works_and_launch_names_the_extra(launcher: Installed, folder: Path):
    wizard(launcher, folder)
    done = launcher.run("plan", "job.yaml", cwd=folder, **NO_ENGINE)
    assert done.returncode == 0 and "'dimba[train]'" in done.stdout, done.stderr
    pins, python = launcher.package / "_project" / "docker" / "constraints.txt", launcher.folder / "bin" / "python"
    for command in ("launch", "data"):
        refused = launcher.run(command, "job.yaml", cwd=folder, **NO_ENGINE)
        assert (
            refused.returncode == 3 and f"pip install --python {python} 'dimba[train]' -c {pins}" in refused.stderr
        ), refused.stderr
    demo = launcher.run("demo", cwd=folder, **NO_ENGINE)
    assert demo.returncode == 3 and "'dimba[train]'" in demo.stderr
    assert not (folder / "demo").exists() and not list(folder.glob("runs/*"))


def test_the_other_commands_work_in_an_empty_folder(launcher: Installed, tmp_path: Path):
    assert launcher.run("schema", cwd=tmp_path).stdout == (REPOSITORY / "jobs" / "job.schema.json").read_text("utf-8")
    checks = json.loads(launcher.run("doctor", "--json", cwd=tmp_path, **NO_ENGINE).stdout)
    assert not [check for check in checks if "docker pull `" in check["fix"]]
    assert launcher.run("ps", "-a", cwd=tmp_path).returncode == 0
    (tmp_path / "job.yaml").write_text(
        "version: 1\nmode: sft\nbase_checkpoint: owner/base\ndataset: {name: owner/rows}\nmethod: lora\n"
        "resources: {gpus: 1, vram_gb: 24}\n"
        "kubernetes: {image: registry.example/dimba:1, volumes: {work: " + str(tmp_path) + "}}\n",
        encoding="utf-8",
    )
    rendered = launcher.run("plan", "job.yaml", "--runner", "kubernetes", cwd=tmp_path)
    assert rendered.returncode == 0 and f"/opt/dimba/{SCRIPT}" in rendered.stdout, rendered.stderr


def test_a_wheel_has_what_a_report_is_made_of(launcher: Installed, tmp_path: Path):
    run = write_run(tmp_path / "runs", attempts=[curve(1, 30)])
    done = launcher.run("report", "first", cwd=tmp_path)
    assert done.stdout == f"{run.path / 'report.html'}\n", done.stderr
    assert "plotly.js (basic" in (run.path / "report.html").read_text(encoding="utf-8")
