"""A trainer is known by its content: a copy of dimba's own is dimba's own, wherever it lies; any other file is not."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dimba.common.project import PACKAGED, project_root
from dimba.host.build_context import gather_context, in_context, package_folder
from dimba.host.provenance import provenance
from dimba.host.trainer import find_trainer, find_trainers
from dimba.host.trust_requirements import find_trust_requirements
from dimba.objectives.registry import OBJECTIVES
from dimba.plan.build import make_plan
from dimba.spec import JobSpec, parse_spec
from tests.conftest import REPOSITORY
from tests.plan.test_plan import FACTS, SPARSE


def spec(*overrides: str) -> JobSpec:
    return parse_spec(SPARSE.encode(), source="job.yaml", overrides=overrides).spec


def checkout(folder: Path) -> Path:
    shutil.copytree(REPOSITORY / "scripts" / "finetuning", folder / "scripts" / "finetuning")
    return folder


@pytest.mark.parametrize("mode", OBJECTIVES)
def test_the_shipped_trainer_in_another_checkout_is_dimbas_own(mode: str, tmp_path: Path):
    there, script = checkout(tmp_path), OBJECTIVES[mode].script
    for named in (None, script, str(there / script)):
        found = find_trainer(named, mode, there, REPOSITORY)
        assert (found.path, found.copy, found.other_mode) == (REPOSITORY / script, there / script, False)
    assert find_trust_requirements(spec(f"mode={mode}"), there, REPOSITORY) == ()
    assert find_trainers(mode, there, REPOSITORY)[0][0] == script


def test_a_renamed_copy_is_the_trainer_of_its_mode(tmp_path: Path):
    copy = tmp_path / "train.py"
    shutil.copy(REPOSITORY / OBJECTIVES["sft"].script, copy)
    assert find_trainer("train.py", "sft", tmp_path, REPOSITORY).path == REPOSITORY / OBJECTIVES["sft"].script
    assert find_trainer("train.py", "grpo", tmp_path, REPOSITORY).other_mode


def test_one_changed_byte_makes_it_a_custom_trainer(tmp_path: Path):
    script = checkout(tmp_path) / OBJECTIVES["sft"].script
    script.write_bytes(script.read_bytes().replace(b"Supervised", b"supervised", 1))
    found = find_trainer(None, "sft", tmp_path, REPOSITORY)
    assert (found.path, found.copy) == (script, None)
    (requirement,) = find_trust_requirements(spec(), tmp_path, REPOSITORY)
    assert requirement.key == "trainer" and str(script) in requirement.what


def test_the_plan_reports_that_the_own_trainer_runs_in_place_of_its_copy(tmp_path: Path):
    trainer = replace(FACTS.trainer, copy=tmp_path / "x.py")
    notes = make_plan(spec(), replace(FACTS, trainer=trainer)).notes
    assert (
        f"trainer: {tmp_path / 'x.py'} has the content of dimba's own {trainer.path}, which runs in its place" in notes
    )
    assert not any("content of dimba's own" in note for note in make_plan(spec(), FACTS).notes)


def test_the_plan_reports_a_custom_trainer_that_has_the_name_of_dimbas_own(tmp_path: Path):
    trainer = replace(FACTS.trainer, path=tmp_path / OBJECTIVES["sft"].script)
    notes = make_plan(spec(), replace(FACTS, trainer=trainer)).notes
    assert f"trainer: {trainer.path} is custom: it has the name of dimba's own, and another content" in notes
    assert not any("is custom" in note for note in make_plan(spec(), FACTS).notes)


def test_the_image_has_no_development_tools_and_a_project_has_its_own_scripts(tmp_path: Path):
    tracked = subprocess.run(
        ["git", "ls-files", "scripts"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    tools = {Path(name).parts[1] for name in tracked.stdout.split() if name.count("/") > 1} - {"finetuning"}
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    names = gather_context(REPOSITORY).files
    missing = (
        "name it in host/build_context.py and .dockerignore: an installed dimba lacks it, and would build another image"
    )
    for tool in sorted(tools):
        assert not [name for name in names if name.startswith(f"scripts/{tool}/")], f"scripts/{tool}: {missing}"
        assert f"scripts/{tool}" in ignored, f"scripts/{tool}: {missing}"
    assert in_context(REPOSITORY / "scripts" / "soak" / "kills.py", REPOSITORY) is None
    assert in_context(REPOSITORY / "scripts" / "mine.py", REPOSITORY) == "scripts/mine.py"
    assert in_context(tmp_path / "scripts" / "mine.py", REPOSITORY) is None


def test_an_installed_package_holds_its_project(tmp_path: Path):
    package = tmp_path / "site-packages" / "dimba"
    project = package / PACKAGED
    assert package_folder(project) == package
    assert in_context(package / "cli" / "x.py", project) == "dimba/cli/x.py"
    script = OBJECTIVES["sft"].script
    assert in_context(project / script, project) == script
    assert in_context(tmp_path / "site-packages" / "other.py", project) is None
    assert project_root() == REPOSITORY and package_folder(REPOSITORY) == REPOSITORY / "dimba"


def test_the_repository_around_an_installed_dimba_is_not_recorded_as_its_own(tmp_path: Path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    project = tmp_path / ".venv" / "dimba" / PACKAGED
    shutil.copytree(REPOSITORY / "docker", project / "docker")
    shutil.copy(REPOSITORY / "Dockerfile", project)
    shutil.copytree(REPOSITORY / "dimba" / "common", project.parent / "common")
    facts = replace(FACTS, project=project)
    record = provenance(facts, (), lambda *_: None)
    assert (record["git_revision"], record["git_dirty"], record["git_diff"]) == (None, None, None)
    (project.parent / "common" / "units.py").write_text("", encoding="utf-8")
    changed = provenance(facts, (), lambda *_: None)
    assert record["code_hash"].startswith("sha256:") and record["code_hash"] != changed["code_hash"]
    assert record["lock_hash"] == changed["lock_hash"] is not None
