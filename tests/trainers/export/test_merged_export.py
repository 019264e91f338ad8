"""A merged export computes what was trained, in every family and method; a spoilt one is refused, and names why."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import BadInput, DimbaError, HostCannot, RunFailed
from dimba.common.trained import TrainedModel
from tests.trainers.export.adapted import METHODS, family, make_adapter
from tests.trainers.export.spoil import SPOILINGS, tensors

# Tied heads (gemma2, gpt2, opt, falcon), experts (mixtral, qwen3_moe, granitemoe), transposed matrices (gpt2),
# joined projections (phi3, gpt_neox), other senses (gemma3), the text part of a model that sees (qwen3_5).
FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox", "opt", "falcon", "olmo2",
    "mixtral", "qwen3_moe", "granitemoe", "qwen3_5", "bloom", "lfm2",
)  # fmt: skip


Export = Callable[..., dict[str, Any]]


def nothing(*_: object) -> None:
    """Reports no progress."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("bases")
    return lambda name: family(name, folder / name)


def export(trained: TrainedModel, target: Path, **asked: Any) -> dict[str, Any]:
    from dimba.trainers.export.request import Request
    from dimba.trainers.export.run import run

    target.mkdir(exist_ok=True)
    return run(Request(trained=trained, target=target, **asked), nothing, nothing)


def check(trained: TrainedModel, folder: Path) -> dict[str, Any]:
    from dimba.trainers.export.request import Request
    from dimba.trainers.export.run import run

    return run(Request(trained=trained, check=folder), nothing, nothing)


@pytest.mark.proof
@pytest.mark.parametrize("name", FAMILIES)
def test_a_merged_model_equals_the_adapter_in_float32(name: str, bases: Callable[[str], Path], tmp_path: Path):
    methods = [each for each in METHODS if not (each == "dora" and name in ("mixtral", "qwen3_moe", "granitemoe"))]
    for method in methods:
        trained = make_adapter(bases(name), tmp_path / method, *METHODS[method])
        proof = export(trained, tmp_path / f"{method}-merged")["proof"]
        assert proof["logits_max_difference"] <= 1e-5 * max(1, proof["logits_scale"]), method
        assert (proof["agreement"], proof["adapter_share"]) == (1, pytest.approx(1)), method
        assert check(trained, tmp_path / f"{method}-merged")["proof"]["tensors_equal"]


@pytest.mark.proof
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("name", "method"), [("llama", "lora"), ("gpt2", "dora"), ("gemma2", "rslora")])
def test_every_spoilt_export_is_refused_and_no_sound_one(
    name: str, method: str, precision: str, bases: Callable[[str], Path], tmp_path: Path
):
    trained = make_adapter(bases(name), tmp_path / "adapter", *METHODS[method])
    sound = tmp_path / "sound"
    export(trained, sound, dtype=precision)
    assert check(trained, sound)["proof"]["tensors_equal"]
    accepted = []
    for spoiling, spoil in SPOILINGS.items():
        folder = tmp_path / spoiling
        shutil.copytree(sound, folder)
        spoil(folder, bases(name))
        try:
            check(trained, folder)
            accepted.append(spoiling)
        except RunFailed as error:
            assert "is not what was trained: " in error.cause and error.hint
    assert accepted == []


@pytest.fixture(scope="module")
def llama(bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return make_adapter(bases("llama"), tmp_path_factory.mktemp("llama") / "adapter")


@pytest.fixture(scope="module")
def merged(llama: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "merged"
    export(llama, folder, about={"run": {"id": "tiny-1"}, "base": {"name": "llama", "hash": "sha256:1"}})
    return folder


def test_export_json_has_every_file_with_its_hash_and_the_numbers_of_the_proof(merged: Path):
    import hashlib

    record = json.loads((merged / "export.json").read_text())
    assert set(record["files"]) == {each.name for each in merged.iterdir()} - {"export.json"}
    for name, listed in record["files"].items():
        data = (merged / name).read_bytes()
        assert listed == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert (record["kind"], record["dtype"], record["run"], record["base_hash"]) == (
        "merged", "float32", "tiny-1", "sha256:1",
    )  # fmt: skip
    names = {"rows", "positions", "agreement", "kl_mean", "kl_max", "logits_max_difference", "template_equal"}
    assert names | {"end_tokens_equal"} <= record["proof"].keys() and record["bounds"]


def test_the_refusal_of_a_spoilt_export_names_the_first_tensor_that_differs(
    llama: TrainedModel, merged: Path, tmp_path: Path
):
    shutil.copytree(merged, tmp_path / "spoilt")
    SPOILINGS["a matrix without its adapter"](tmp_path / "spoilt", Path(llama.base))
    with pytest.raises(RunFailed, match=r"`model\.layers\.1\.self_attn\.v_proj\.weight` holds 0% of the adapter"):
        check(llama, tmp_path / "spoilt")


def test_the_card_names_no_path_of_this_machine(llama: TrainedModel, merged: Path):
    text = (merged / "README.md").read_text()
    assert "base_model: llama" in text and "pipeline_tag: text-generation" in text
    assert str(Path(llama.base).parent) not in text and str(Path(llama.folder).parent) not in text
    assert all(str(Path(llama.base).parent) not in (merged / each.name).read_text() for each in merged.glob("*.json"))


def test_a_value_beyond_float16_is_refused_and_leaves_nothing(
    bases: Callable[[str], Path], tmp_path: Path, llama: TrainedModel
):
    from tests.trainers.export.spoil import with_tensors

    base = tmp_path / "base"
    shutil.copytree(bases("llama"), base)
    with_tensors(lambda found, _: found["model.norm.weight"].mul_(1e6))(base, base)
    trained = TrainedModel(folder=llama.folder, base=str(base))
    with pytest.raises(DimbaError, match=r"`model\.norm\.weight` reaches .* float16 ends at 65,504") as refused:
        export(trained, tmp_path / "merged", dtype="float16")
    assert "--dtype bfloat16" in refused.value.hint and list((tmp_path / "merged").iterdir()) == []


@pytest.mark.proof
def test_a_q_lora_adapter_goes_into_the_base_itself_and_the_difference_is_reported(tmp_path: Path):
    from dataclasses import replace

    from dimba.trainers.tiny import make

    make(tmp_path)
    plain = make_adapter(tmp_path / "base", tmp_path / "adapter")
    record = export(replace(plain, four_bit=True), tmp_path / "merged")
    assert record["dtype"] == "float32" and record["proof"]["logits_max_difference"] < 1e-5
    other = record["proof"]["quantized_base"]
    assert other["kl_mean"] > 1e-6 and other["positions"] == record["proof"]["positions"]


@pytest.mark.proof
def test_a_complete_model_is_exported_in_the_chosen_type_with_its_proof(
    bases: Callable[[str], Path], tmp_path: Path, llama: TrainedModel
):
    record = export(TrainedModel(folder=str(bases("llama"))), tmp_path / "half", dtype="bfloat16")
    assert record["dtype"] == "bfloat16" and "adapter_share" not in record["proof"]
    again = export(TrainedModel(folder=llama.folder, base=str(bases("llama"))), tmp_path / "one")
    twice = export(TrainedModel(folder=str(tmp_path / "one")), tmp_path / "two")
    weights = "model.safetensors"
    assert twice["files"][weights]["sha256"] == again["files"][weights]["sha256"]


def test_shards_are_as_large_as_those_of_the_base(bases: Callable[[str], Path], tmp_path: Path, llama: TrainedModel):
    from transformers import AutoModelForCausalLM

    base = tmp_path / "sharded"
    shutil.copytree(bases("llama"), base)
    (base / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(bases("llama")).save_pretrained(base, max_shard_size=100_000)
    export(TrainedModel(folder=llama.folder, base=str(base)), tmp_path / "merged")
    sizes = [each.stat().st_size for each in (tmp_path / "merged").glob("model-*.safetensors")]
    assert len(sizes) == len(list(base.glob("model-*.safetensors"))) > 1
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_parameters"] == sum(each.numel() for each in tensors(tmp_path / "merged").values())


def test_the_card_takes_licence_and_tags_from_the_base(
    bases: Callable[[str], Path], tmp_path: Path, llama: TrainedModel
):
    from huggingface_hub.repocard import metadata_load

    base = tmp_path / "base"
    shutil.copytree(bases("llama"), base)
    (base / "README.md").write_text(
        "---\nlicense: apache-2.0\ntags: [code, 'base_model:x']\nlanguage: [en]\n---\n# Base\n"
    )
    about = {
        "mode": "sft",
        "method": "lora",
        "data": [{"name": "ada/rows", "hash": "sha256:3"}],
        "results": {"loss": 1},
    }
    export(TrainedModel(folder=llama.folder, base=str(base)), tmp_path / "merged", about=about)
    found = metadata_load(tmp_path / "merged" / "README.md")
    assert (found["license"], found["tags"], found["language"]) == ("apache-2.0", ["code", "dimba"], ["en"])
    assert (found["datasets"], found["library_name"]) == (["ada/rows"], "transformers")
    text = (tmp_path / "merged" / "README.md").read_text()
    assert "sha256:3" in text and "| equal likeliest tokens | 1.0 |" in text


def test_a_saved_model_that_is_not_the_one_of_training_is_refused(llama: TrainedModel, tmp_path: Path):
    noted = ({"prompt": [1, 5, 9, 11], "tokens": [300, 301, 302, 303, 304]},)
    with pytest.raises(RunFailed, match="continues otherwise than the trained one in memory did: 0 of 5 tokens"):
        export(llama, tmp_path / "merged", likeliest=noted)
    assert list((tmp_path / "merged").iterdir()) == []


@pytest.mark.proof
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_disk_that_fills_up_while_it_is_written_is_named_and_left_empty(llama: TrainedModel, tmp_path: Path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(tmp_path)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        with pytest.raises(HostCannot, match=r"the disk of .* is full") as refused:
            export(llama, tmp_path / "merged")
        assert "--out" in refused.value.hint and list((tmp_path / "merged").iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.proof
def test_where_float32_has_no_room_the_proof_allows_for_the_precision_that_it_computes_in(
    llama: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import torch

    from dimba.trainers.models.trained import Loading

    monkeypatch.setattr("dimba.trainers.export.run.choose_loading", lambda *_: Loading(torch.bfloat16))
    for name in ("float32", "bfloat16", "float16"):
        proof = export(llama, tmp_path / name, dtype=name)["proof"]
        assert proof["computed_in"] == "bfloat16" and proof["kl_mean"] < 1e-3
    spoilt = tmp_path / "spoilt"
    shutil.copytree(tmp_path / "float32", spoilt)
    SPOILINGS["a matrix without its adapter"](spoilt, Path(llama.base))
    with pytest.raises(RunFailed, match=r"of the adapter.s change, and should hold"):
        check(llama, spoilt)


def test_trained_prompts_are_refused_as_they_are_no_change_of_the_base(
    bases: Callable[[str], Path], tmp_path: Path, llama: TrainedModel
):
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(bases("llama"))
    adapted = get_peft_model(model, PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"))
    shutil.copytree(llama.folder, tmp_path / "prompts")
    adapted.save_pretrained(tmp_path / "prompts")
    with pytest.raises(BadInput, match="PROMPT_TUNING changes no weights of its base"):
        export(TrainedModel(folder=str(tmp_path / "prompts"), base=llama.base), tmp_path / "merged")
