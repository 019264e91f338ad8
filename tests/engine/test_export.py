"""An export in the container: owned by the output folder's owner, the same as in a process, and nothing left behind."""

import json
import os
from pathlib import Path

import pytest

from dimba.runners.docker.engine import Engine
from tests.conftest import Dimba
from tests.trainers.export.adapted import family, make_adapter


@pytest.mark.engine
def test_an_export_in_the_container_equals_that_of_a_process_and_belongs_to_the_folders_owner(
    engine: Engine, tmp_path: Path, dimba: Dimba
):
    trained = Path(make_adapter(family("llama", tmp_path / "base"), tmp_path / "tuned").folder)
    for each in (trained, *trained.iterdir()):
        os.chown(each, 1234, 1234)
    own = {"HF_HOME": str(tmp_path / "hf")}
    for runner in ("docker", "process"):
        words = ("--gpus", "none", "--runner", runner, "--out", str(trained / runner), "--dtype", "bfloat16")
        done = dimba("export", str(trained), *words, cwd=tmp_path, **own)
        assert done.returncode == 0, done.stderr
    inside, outside = (json.loads((trained / each / "export.json").read_text()) for each in ("docker", "process"))
    weights = [each["files"]["model.safetensors"]["sha256"] for each in (inside, outside)]
    assert weights[0] == weights[1] and inside["proof"]["tensors_equal"]
    owners = {
        (each.stat().st_uid, each.stat().st_gid) for each in (trained / "docker", *(trained / "docker").iterdir())
    }
    assert owners == {(1234, 1234)}
    assert {each.name for each in trained.iterdir() if each.is_dir()} == {"docker", "process"}
