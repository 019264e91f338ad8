"""The image with llama.cpp: from a wheel that lies beside it, without its compiler."""

import shutil
from pathlib import Path

import pytest

from dimba.host.build_context import GGUF
from dimba.plan.model import Mount
from dimba.runners.docker.engine import Engine
from dimba.runners.docker.runner import DockerRunner
from dimba.runners.protocol import OneShot
from tests.conftest import REPOSITORY
from tests.engine.test_docker import SPEC
from tests.trainers.gguf import make_family

_EXPORT = """
import shutil, sys
from pathlib import Path
from dimba.trainers.export.gguf.convert import convert
from dimba.trainers.export.gguf.engine import LlamaModel
convert(Path(sys.argv[1]), Path(sys.argv[2]), "q8_0", print)
with LlamaModel(Path(sys.argv[2])) as model:
    print("tokens:", model.logits([5, 6, 7]).shape[0], "compiler:", shutil.which("cmake"))
"""


@pytest.mark.engine
def test_the_image_with_llama_cpp_shares_the_layers_of_the_plain_one_and_exports(
    engine: Engine, built: str, llama_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copy(llama_wheel, tmp_path)
    monkeypatch.setenv("DIMBA_WHEELS", str(tmp_path))
    runner, model = DockerRunner(engine, REPOSITORY), make_family("qwen3", tmp_path / "model")
    image = runner.prepare(SPEC, lambda *_: None, extra=GGUF)
    assert image and image.id and image.reference != built
    layers = [engine.api.inspect_image(each)["RootFS"]["Layers"] for each in (built, image.reference)]
    tmp_path.chmod(0o777)
    mounts = (Mount(source=str(tmp_path), target=str(tmp_path), read_only=False),)
    place = OneShot(image=image.reference, uid=1234, gid=1234, mounts=mounts)
    done = runner.run_once(["python", "-c", _EXPORT, str(model), str(tmp_path / "out.gguf")], place)
    engine.api.remove_image(image.reference, force=True)
    assert done.exit_code == 0, done.text
    assert "quantising to Q8_0" in done.text and "tokens: 3 compiler: None" in done.text
    assert len([1 for one, other in zip(*layers, strict=False) if one == other]) >= 5, "torch is not installed again"
