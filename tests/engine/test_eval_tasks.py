"""The image with lm-eval: what it shares with the plain one, and a task that runs in it."""

import json
from pathlib import Path

import pytest

from dimba.host.build_context import EVAL
from dimba.runners.docker.engine import Engine
from dimba.runners.docker.runner import DockerRunner
from dimba.runners.protocol import OneShot
from tests.conftest import REPOSITORY, Dimba, write_rows
from tests.engine.test_docker import SPEC

TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: ../rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["yes, it is", "not"]
doc_to_target: 1
metric_list: [{metric: acc}]
"""
PACKAGES = ("torch", "transformers", "datasets", "numpy", "pyarrow", "trl", "peft")


def test_a_task_of_a_file_runs_in_the_image_with_lm_eval_which_leaves_the_training_packages_as_they_are(
    engine: Engine, built: str, tiny_checkpoint: Path, tmp_path: Path, dimba: Dimba
):
    write_rows(tmp_path / "rows.jsonl", [{"question": f"Is {n} odd?"} for n in range(12)])
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(TASK, encoding="utf-8")
    ask = ("eval", str(tiny_checkpoint), "--against", str(tiny_checkpoint), "--tasks", "tasks/mine.yaml", "--json")
    done = dimba(*ask, "--gpus", "none", "--runner", "docker", cwd=tmp_path, HF_HOME=str(tmp_path / "hf"))
    image = DockerRunner(engine, REPOSITORY).prepare(SPEC, lambda *_: None, extra=EVAL)
    assert image and image.id and image.reference != built
    layers = [engine.api.inspect_image(each)["RootFS"]["Layers"] for each in (built, image.reference)]
    versions = [versions_in(engine, each) for each in (built, image.reference)]
    engine.api.remove_image(image.reference, force=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["measures"]["mine acc"]["rows"] == 12 and found["better"] is None
    assert versions[0] == versions[1]
    assert len([1 for one, other in zip(*layers, strict=False) if one == other]) >= 5, "torch is not installed again"


def versions_in(engine: Engine, image: str) -> str:
    code = f"import importlib.metadata as m; print([m.version(each) for each in {PACKAGES!r}])"
    place = OneShot(image=image, uid=1234, gid=1234)
    return DockerRunner(engine, REPOSITORY).run_once(["python", "-c", code], place).text


pytestmark = pytest.mark.engine
