"""The image with llama.cpp: from a wheel that lies beside it, without its compiler, and what is exported in it."""

import json
import shutil
from pathlib import Path

import pytest

from dimba.host.build_context import GGUF
from dimba.runners.docker.engine import Engine
from dimba.runners.docker.runner import DockerRunner
from dimba.runners.protocol import OneShot
from tests.conftest import REPOSITORY, Dimba
from tests.engine.test_docker import SPEC
from tests.trainers.gguf import make_family


@pytest.mark.engine
def test_a_model_is_exported_in_the_image_with_llama_cpp_which_shares_the_layers_of_the_plain_one(
    engine: Engine, built: str, llama_wheel: Path, tmp_path: Path, dimba: Dimba, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "wheels").mkdir()
    shutil.copy(llama_wheel, tmp_path / "wheels")
    monkeypatch.setenv("DIMBA_WHEELS", str(tmp_path / "wheels"))
    make_family("qwen3", tmp_path / "model")
    exported = dimba("export", "model", "--gguf", "q8_0", "--gpus", "none", "--runner", "docker", cwd=tmp_path)
    runner = DockerRunner(engine, REPOSITORY)
    image = runner.prepare(SPEC, lambda *_: None, extra=GGUF)
    assert image and image.id and image.reference != built
    layers = [engine.api.inspect_image(each)["RootFS"]["Layers"] for each in (built, image.reference)]
    compiler = runner.run_once(["python", "-c", "import shutil; print(shutil.which('cmake'))"], _place(image.reference))
    engine.api.remove_image(image.reference, force=True)
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.strip() == str(tmp_path / "model" / "gguf")
    record = json.loads((tmp_path / "model" / "gguf" / "export.json").read_text(encoding="utf-8"))
    assert record["type"] == "q8_0" and {"model-Q8_0.gguf", "Modelfile"} <= set(record["files"])
    assert compiler.text.strip() == "None"
    assert len([1 for one, other in zip(*layers, strict=False) if one == other]) >= 5, "torch is not installed again"


def _place(image: str) -> OneShot:
    return OneShot(image=image, uid=1234, gid=1234)
