"""Checkpoints that run code when they are loaded: pickled weights, and Python files beside them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dimba.common.checkpoints import asks_for_code
from dimba.common.errors import BadInput
from dimba.host.checkpoint import look_at_checkpoint
from dimba.objectives.sft import SFT
from dimba.trainers.models.loading import Compute, load_context, load_model, load_tokenizer
from tests.conftest import NO_ENGINE, Dimba

CPU = Compute(on_cpu=True, mixed="no")
CODE = """\
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({marker!r}).touch()
class MineConfig(LlamaConfig):
    model_type = "mine"
class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""


def changed(base: Path, name: str, **values: Any) -> None:
    config = json.loads((base / name).read_text(encoding="utf-8"))
    (base / name).write_text(json.dumps({**config, **values}), encoding="utf-8")


@pytest.fixture
def base(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))


@pytest.fixture
def with_code(base: Path, tmp_path: Path) -> Path:
    """A model unknown to transformers, with its code beside it; loading it creates the file `ran`."""
    (base / "mine.py").write_text(CODE.format(marker=str(tmp_path / "ran")), encoding="utf-8")
    auto_map = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    changed(base, "config.json", model_type="mine", architectures=["MineForCausalLM"], auto_map=auto_map)
    return base


@pytest.fixture
def pickled(base: Path) -> Path:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    return base


def args(base: Path, *more: str) -> Any:
    needed = ["--base-checkpoint", str(base), "--dataset", "d.jsonl", "--output-dir", "out"]
    return SFT.parse([*needed, *more])


def test_code_beside_a_checkpoint_runs_only_with_trust_remote_code(with_code: Path, tmp_path: Path):
    for load in (
        lambda: load_model(args(with_code), CPU),
        lambda: load_context(str(with_code)),
        lambda: load_tokenizer(str(with_code)),
    ):
        with pytest.raises(BadInput) as raised:
            load()
        assert "brings code of its own" in raised.value.message and "--trust-remote-code" in raised.value.hint
    assert not (tmp_path / "ran").exists()
    assert type(load_model(args(with_code, "--trust-remote-code"), CPU)).__name__ == "MineForCausalLM"
    assert (tmp_path / "ran").exists()


def test_a_tokenizers_code_is_refused_too(base: Path):
    changed(base, "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Tokenizer", None]})
    with pytest.raises(BadInput, match="tokenizer_config"):
        load_tokenizer(str(base))
    assert look_at_checkpoint(str(base), base).own_code == "tokenizer_config.json"


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"auto_map": {"AutoConfig": "x.Y"}}, True),
        ({"text_config": {"auto_map": {"AutoConfig": "x.Y"}}}, True),
        ({"attn_implementation": "someone/kernel"}, True),
        ({"attn_implementation": "sdpa", "auto_map": {}}, False),
        ([], False),
    ],
)
def test_code_is_found_wherever_a_configuration_names_it(config: Any, names: bool):
    assert asks_for_code(config) is names


def test_pickled_weights_are_read_only_with_allow_pickle(pickled: Path):
    with pytest.raises(BadInput) as raised:
        load_model(args(pickled), CPU)
    assert "--allow-pickle" in raised.value.hint
    assert load_model(args(pickled, "--allow-pickle"), CPU)
    found = look_at_checkpoint(str(pickled), pickled)
    assert "only pickled weights" in found.problem and "allow-pickle: true" in found.hint
    allowed = look_at_checkpoint(str(pickled), pickled, allow_pickle=True)
    assert not allowed.problem and allowed.parameters is None and allowed.architecture == "LlamaForCausalLM"


def test_safetensors_are_preferred_over_pickled_weights_beside_them(base: Path):
    (base / "pytorch_model.bin").write_bytes(b"not read")
    assert load_model(args(base, "--allow-pickle"), CPU) and not look_at_checkpoint(str(base), base).problem


def test_an_index_of_pickled_weights_must_be_complete(pickled: Path):
    (pickled / "pytorch_model.bin").rename(pickled / "pytorch_model-00001-of-00002.bin")
    index = {"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    found = look_at_checkpoint(str(pickled), pickled, allow_pickle=True)
    assert "lacks pytorch_model-00002-of-00002.bin" in found.problem


@pytest.mark.proof
def test_a_spec_whose_base_brings_code_must_be_trusted(job: Path, tiny_checkpoint: Path, dimba: Dimba):
    shutil.rmtree(job / "base")
    shutil.copytree(tiny_checkpoint, job / "base")
    (job / "base" / "mine.py").write_text(CODE.format(marker=str(job / "ran")), encoding="utf-8")
    auto_map = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    changed(job / "base", "config.json", model_type="mine", architectures=["MineForCausalLM"], auto_map=auto_map)
    here = {**NO_ENGINE, "HF_HOME": str(job / "hf")}
    for command in ("plan", "data", "launch"):
        done = dimba(command, "job.yaml", "--runner", "process", cwd=job, **here)
        assert done.returncode == 2 and "job.yaml:3: base_checkpoint: " in done.stderr, done.stderr
        assert "contains code" in done.stderr and "trust-remote-code" in done.stderr
    with (job / "job.yaml").open("a", encoding="utf-8") as file:
        file.write("trainer_args: {trust-remote-code: true}\n")
    for command, status in (("plan", 0), ("data", 2), ("launch", 2)):
        done = dimba(command, "job.yaml", "--runner", "process", cwd=job, **here)
        assert done.returncode == status and (status == 0 or "--trust-spec" in done.stderr), done.stderr
    assert not (job / "ran").exists(), "its code was not executed"
    done = dimba("launch", "job.yaml", "--runner", "process", "--trust-spec", cwd=job, **here)
    assert done.returncode == 0 and (job / "ran").exists(), done.stdout + done.stderr
    assert "code from the checkpoint runs in the job" in done.stderr
    (record,) = (job / "runs").glob("*/run.json")
    assert "trust-remote-code" in record.read_text(encoding="utf-8")


def test_a_plan_reads_pickled_weights_only_with_allow_pickle(job: Path, dimba: Dimba):
    (job / "base" / "model.safetensors").rename(job / "base" / "pytorch_model.bin")
    refused = dimba("plan", "job.yaml", cwd=job, **NO_ENGINE)
    assert refused.returncode == 2 and "only pickled weights" in refused.stderr and "allow-pickle" in refused.stderr
    words = ("--set", "trainer_args.allow-pickle=true")
    allowed = dimba("plan", "job.yaml", *words, "--json", cwd=job, **NO_ENGINE)
    assert allowed.returncode == 0 and "--allow-pickle" in json.loads(allowed.stdout)["argv"], allowed.stderr
