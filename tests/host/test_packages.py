"""Without the training packages, a plan notes and a launch requires the command that installs them."""

import importlib.util
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dimba.commands.doctor.engine import check_process
from dimba.commands.doctor.machine import Machine
from dimba.common.errors import HostCannot
from dimba.host.build_context import EVAL
from dimba.host.facts import EngineFacts
from dimba.host.packages import TRAINING_PACKAGES, install_command, missing_packages
from dimba.plan.build import make_plan
from dimba.runners.process import ProcessRunner
from dimba.spec import parse_spec
from tests.conftest import REPOSITORY
from tests.plan.test_plan import FACTS, SPARSE

SPEC = parse_spec(SPARSE.encode(), source="job.yaml").spec


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that has none of the training packages."""
    found = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        return None if name in TRAINING_PACKAGES else found(name, package)

    monkeypatch.setattr("dimba.host.packages.importlib.util.find_spec", find)


def test_a_launch_without_the_training_packages_is_refused_with_the_command(bare: None):
    with pytest.raises(HostCannot) as refused:
        ProcessRunner().prepare(SPEC, lambda *_: None)
    assert refused.value.exit_status == 3 and "torch" in refused.value.message
    assert "-m pip install" in refused.value.hint and str(REPOSITORY / "docker/constraints.txt") in refused.value.hint
    (check,) = check_process(Machine(folder=Path(), engine=EngineFacts(reachable=False)))
    assert check.fix.strip("`") == install_command(REPOSITORY)


def test_tasks_without_lm_eval_are_refused_with_the_command_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dimba.runners.process.missing_packages", lambda: ())
    monkeypatch.setattr("dimba.runners.process.has_tasks", lambda: False)
    with pytest.raises(HostCannot, match="lm-eval, which runs tasks, is not installed here") as refused:
        ProcessRunner().prepare(SPEC, lambda *_: None, extra=EVAL)
    lists = f"-r {REPOSITORY}/docker/eval/requirements.txt -c {REPOSITORY}/docker/eval/constraints.txt"
    assert lists in refused.value.hint
    assert ProcessRunner().prepare(SPEC, lambda *_: None) is None


def test_a_plan_notes_the_missing_packages_where_no_image_has_them(bare: None):
    facts = replace(FACTS, missing_packages=missing_packages(), install_command="pip install x")
    needed = "where the job would run: accelerate, datasets, peft, torch, transformers, trl; `launch` needs `pip"
    spec = SPEC.model_copy(update={"runner": "process"})
    assert any(needed in note for note in make_plan(spec, facts).notes)
    assert not any(needed in note for note in make_plan(SPEC, facts).notes), "the image has them"


def test_the_command_names_the_extra_if_dimba_is_installed_and_the_files_otherwise(monkeypatch: pytest.MonkeyPatch):
    pins = f"-c {REPOSITORY}/docker/constraints.txt"
    monkeypatch.setattr("dimba.host.packages._is_installed", lambda: True)
    assert install_command(REPOSITORY).endswith(f"-m pip install 'dimba[train]' {pins}")
    monkeypatch.setattr("dimba.host.packages._is_installed", lambda: False)
    assert install_command(REPOSITORY).endswith(f"-m pip install -r {REPOSITORY}/docker/requirements.txt {pins}")
    assert "'/a b/docker/constraints.txt'" in install_command(Path("/a b"))
    monkeypatch.setattr("dimba.host.packages.importlib.util.find_spec", lambda _name: None)
    assert install_command(REPOSITORY).startswith("uv pip install --python ")


def test_the_extra_has_the_packages_of_the_image():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = set(project["optional-dependencies"]["train"])
    host = {each.partition(">")[0] for each in project["dependencies"]}
    lines = (REPOSITORY / "docker" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    image = {line.partition("==")[0] for line in lines if line and not line.startswith("#")}
    assert image <= extra | host and extra <= image
