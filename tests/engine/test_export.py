"""An export in the container: owned by the output folder's owner, the same as in a process, and nothing left behind."""

import json
import os
from pathlib import Path

import pytest

from dimba.runners.docker.engine import Engine
from dimba.trainers.models.saving import apply_umask
from tests.conftest import Dimba
from tests.trainers.export.adapted import family, make_adapter
from tests.trainers.export.test_merged_export import export


@pytest.mark.engine
def test_an_export_in_the_container_equals_that_of_a_process_and_belongs_to_the_folders_owner(
    engine: Engine, tmp_path: Path, dimba: Dimba
):
    trained = make_adapter(family("llama", tmp_path / "base"), tmp_path / "tuned")
    folder = Path(trained.folder)
    for each in (Path(trained.base), folder):
        apply_umask(each)
    for each in (folder, *folder.iterdir()):
        os.chown(each, 1234, 1234)
    words = ("--gpus", "none", "--runner", "docker", "--dtype", "bfloat16")
    done = dimba("export", str(folder), *words, cwd=tmp_path, HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 0, done.stderr
    inside = json.loads((folder / "merged" / "export.json").read_text())
    outside = export(trained, tmp_path / "merged", dtype="bfloat16")
    weights = [each["files"]["model.safetensors"]["sha256"] for each in (inside, outside)]
    assert weights[0] == weights[1] and inside["proof"]["tensors_equal"]
    owners = {(each.stat().st_uid, each.stat().st_gid) for each in (folder / "merged", *(folder / "merged").iterdir())}
    assert owners == {(1234, 1234)}
    assert [each.name for each in folder.iterdir() if each.is_dir()] == ["merged"]
