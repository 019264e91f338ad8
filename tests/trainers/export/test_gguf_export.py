"""A GGUF export is run by llama.cpp itself and compared with what was trained; a spoilt file is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import BadInput, RunFailed
from dimba.common.trained import TrainedModel
from tests.trainers.export.adapted import make_adapter
from tests.trainers.export.spoil import SPOILINGS
from tests.trainers.export.test_merged_export import check, export
from tests.trainers.gguf import FAMILIES, make_family

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("llama_wheel")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TrainedModel]:
    folder = tmp_path_factory.mktemp("gguf")

    def made(name: str) -> TrainedModel:
        if not (folder / name).exists():
            make_family(name, folder / name)
            make_adapter(folder / name, folder / f"{name}-adapter", size=0.1)
        return TrainedModel(folder=str(folder / f"{name}-adapter"), base=str(folder / name))

    return made


@pytest.mark.parametrize("name", FAMILIES)
def test_the_f16_file_agrees_on_the_likeliest_tokens_in_every_family(
    name: str, trained: Callable[[str], TrainedModel], tmp_path: Path
):
    record = export(trained(name), tmp_path / "gguf", gguf="f16", name="tiny")
    assert record["proof"]["agreement"] >= 0.99 and record["proof"]["positions"] > 100
    assert record["proof"]["kl_mean"] < 1e-6 and not (tmp_path / "gguf" / ".merged").exists()
    assert {"tiny-F16.gguf", "README.md"} <= record["files"].keys() and record["type"] == "f16"
    assert check(trained(name), tmp_path / "gguf")["proof"]["template_equal"]


@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m", "q3_k_m"])
def test_every_type_keeps_its_bounds(kind: str, trained: Callable[[str], TrainedModel], tmp_path: Path):
    record = export(trained("llama"), tmp_path / "gguf", gguf=kind, name="tiny")
    assert record["proof"]["kl_mean"] <= record["bounds"]["kl_mean"]


@pytest.fixture(scope="module")
def merged(trained: Callable[[str], TrainedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    export(trained("llama"), folder := tmp_path_factory.mktemp("merged") / "llama")
    return folder


@pytest.mark.parametrize(
    "spoiling",
    ["a layer without its adapter", "half the scale", "two matrices exchanged", "another template", "no template"],
)
def test_a_file_of_a_model_that_was_spoilt_before_it_was_converted_is_refused(
    spoiling: str, merged: Path, trained: Callable[[str], TrainedModel], tmp_path: Path
):
    from dimba.trainers.export.gguf.convert import convert

    shutil.copytree(merged, tmp_path / "merged")
    SPOILINGS[spoiling](tmp_path / "merged", Path(trained("llama").base))
    convert(tmp_path / "merged", tmp_path / "gguf" / "tiny-F16.gguf", "f16", lambda _: None)
    with pytest.raises(RunFailed, match="is not what was trained: "):
        check(trained("llama"), tmp_path / "gguf")


def test_a_broken_file_is_refused_with_what_llama_cpp_says(trained: Callable[[str], TrainedModel], tmp_path: Path):
    export(trained("llama"), tmp_path / "gguf", gguf="f16", name="tiny")
    file = tmp_path / "gguf" / "tiny-F16.gguf"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(RunFailed, match=r"llama\.cpp cannot load it") as refused:
        check(trained("llama"), tmp_path / "gguf")
    assert "tiny-F16.gguf has changed since the export; export it again" in refused.value.hint


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused_before_any_weight_is_loaded(
    trained: Callable[[str], TrainedModel], tmp_path: Path
):
    model = trained("llama")
    shutil.copytree(model.folder, tmp_path / "adapter")
    file = tmp_path / "adapter" / "tokenizer.json"
    value: dict[str, Any] = json.loads(file.read_text())
    value["pre_tokenizer"] = {"type": "Whitespace"}
    file.write_text(json.dumps(value))
    with pytest.raises(BadInput, match=r"--gguf: llama\.cpp") as refused:
        export(TrainedModel(folder=str(tmp_path / "adapter"), base=model.base), tmp_path / "gguf", gguf="f16")
    assert "--merged" in refused.value.hint and not list((tmp_path / "gguf").iterdir())
