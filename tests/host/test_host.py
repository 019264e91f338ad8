"""Probes of the machine: GPUs, checkpoints, output folders."""

import json
import os
from pathlib import Path

import pytest

from dimba.host.cdi import cdi_devices
from dimba.host.checkpoint import look_at_checkpoint
from dimba.host.facts import Gpu
from dimba.host.gpus import cdi_device, find_gpus
from dimba.host.output import look_at_output, may_read
from tests.conftest import hollow_checkpoint

SMI = """#!/bin/sh
case "$1" in --query-gpu=*) ;; *) exit 1 ;; esac
echo "0, GPU-aa, NVIDIA A100, 40960, 8.0, 580.1"
echo "1, GPU-bb, NVIDIA T4, 15360, 7.5, 580.1"
"""


def put_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (tmp_path / "nvidia-smi").write_text(script, encoding="utf-8")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put_on_path(tmp_path, monkeypatch, SMI)
    first, second = find_gpus().gpus
    assert (first.uuid, first.memory_mib, second.compute_capability) == ("GPU-aa", 40960, 7.5)


def test_a_failing_nvidia_smi_counts_more_than_a_stale_cdi_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put_on_path(tmp_path, monkeypatch, "#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    found = find_gpus(["nvidia.com/gpu=0"])
    assert (found.gpus, found.problem) == ((), "nvidia-smi: NVIDIA-SMI has failed")


def test_without_nvidia_smi_gpus_are_read_from_the_cdi_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    devices = ["nvidia.com/gpu=1", "nvidia.com/gpu=0", "nvidia.com/gpu=all", "other.com/x=0"]
    assert [gpu.index for gpu in find_gpus(devices).gpus] == [0, 1]
    assert find_gpus().problem


def test_a_gpu_is_found_in_cdi_by_uuid_before_index():
    devices = ["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-aa"]
    assert cdi_device(Gpu(index=0, uuid="GPU-aa"), devices) == "nvidia.com/gpu=GPU-aa"
    assert cdi_device(Gpu(index=5), devices) is None


def test_devices_are_read_from_cdi_files_and_broken_files_have_none(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("kind: nvidia.com/gpu\ndevices: [{name: '0'}, {name: all}]\n", encoding="utf-8")
    (tmp_path / "b.json").write_text('{"kind": "x/y", "devices": [{"name": "z"}]}', encoding="utf-8")
    (tmp_path / "c.yaml").write_text("devices: {", encoding="utf-8")
    assert cdi_devices([str(tmp_path), "/nonexistent"]) == {"nvidia.com/gpu=0", "nvidia.com/gpu=all", "x/y=z"}


def test_a_checkpoints_facts_are_read_from_its_headers(tmp_path: Path):
    facts = look_at_checkpoint("base", hollow_checkpoint(tmp_path / "base").parent)
    assert (facts.architecture, facts.parameters, facts.weight_bytes) == ("LlamaForCausalLM", 14, 56)
    assert (sum((facts.linear_sides or {}).values()), facts.has_chat_template, facts.problem) == (5, True, "")


def test_a_hub_id_is_not_looked_up(tmp_path: Path):
    facts = look_at_checkpoint("owner/name", tmp_path)
    assert (facts.local, facts.problem) == (False, "")


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (lambda base: (base / "config.json").unlink(), "has no config.json"),
        (lambda base: (base / "config.json").rename(base / "adapter_config.json"), "holds an adapter"),
        (lambda base: (base / "model.safetensors").rename(base / "pytorch_model.bin"), "only pickled weights"),
        (lambda base: (base / "model.safetensors").unlink(), "has no weights"),
        (lambda base: (base / "tokenizer_config.json").unlink(), "has no tokenizer"),
        (lambda base: (base / "config.json").write_text("{"), "cannot be read"),
        (lambda base: os.truncate(base / "model.safetensors", 200), "ends early"),
        (lambda base: os.truncate(base / "model.safetensors", 0), "model.safetensors is empty"),
        (lambda base: (base / "model.safetensors").write_text("<html>" * 99), "not a safetensors file"),
        (lambda base: (base / "config.json").write_text("\ufeff{}"), "byte order mark"),
        (lambda base: (base / "config.json").write_text("{}", "utf-16"), "config.json is not JSON in UTF-8"),
        (lambda base: edit_tokenizer(base, "PreTrainedTokenizerFast"), "has no tokenizer.json"),
        (lambda base: edit_tokenizer(base, "GPT2Tokenizer"), "has no vocabulary"),
        (lambda base: sharded(base, ["a.safetensors", "b.safetensors"]), "lacks b.safetensors, which its index names"),
        (lambda base: sharded(base, []), "has a broken model.safetensors.index.json"),
        (lambda base: (base / "model.safetensors").write_text("version https://git-lfs.github.com/"), "git-lfs"),
        (lambda base: (base / "model.safetensors").rename(base / "q4.gguf"), "in the format of llama.cpp (GGUF)"),
        (lambda base: (base / "model.safetensors").rename(base / "tf_model.h5"), "in the format of TensorFlow"),
    ],
)
def test_each_kind_of_broken_checkpoint_has_its_own_problem_and_a_hint(tmp_path: Path, broken, problem: str):
    base = hollow_checkpoint(tmp_path / "base")
    broken(base)
    facts = look_at_checkpoint("base", tmp_path)
    assert problem in facts.problem
    assert facts.hint


def edit_tokenizer(base: Path, name: str) -> None:
    (base / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))


def sharded(base: Path, files: list[str]) -> None:
    """Renames the weights to a.safetensors, and writes an index of these files."""
    (base / "model.safetensors").rename(base / "a.safetensors")
    index = {"weight_map": {str(number): name for number, name in enumerate(files)}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


def test_an_index_beside_a_single_file_is_not_read(tmp_path: Path):
    base = hollow_checkpoint(tmp_path / "base")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "gone.safetensors"}}))
    assert look_at_checkpoint("base", tmp_path).problem == ""


def test_a_file_or_folder_of_another_format_is_named(tmp_path: Path):
    (tmp_path / "q4.gguf").write_bytes(b"GGUF")
    for place in (".", "./q4.gguf"):
        facts = look_at_checkpoint(place, tmp_path)
        assert "in the format of llama.cpp (GGUF)" in facts.problem and "that it was made from" in facts.hint


def test_a_pointer_of_git_lfs_is_answered_with_the_command_that_fetches(tmp_path: Path):
    base = hollow_checkpoint(tmp_path / "base")
    (base / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1", encoding="utf-8")
    assert look_at_checkpoint("base", tmp_path).hint == f"`cd {base} && git lfs pull`"


def test_a_missing_folder_is_not_taken_for_a_hub_id(tmp_path: Path):
    assert "does not exist" in look_at_checkpoint("checkpoints/base", tmp_path).problem
    assert "neither a folder nor a Hub id" in look_at_checkpoint("a/b/c", tmp_path).problem


def test_the_job_belongs_to_the_owner_of_the_nearest_folder(tmp_path: Path):
    if os.geteuid() == 0:
        os.chown(tmp_path, 1234, 1235)
    facts = look_at_output("a/b/c", tmp_path)
    assert (facts.uid, facts.gid) == ((1234, 1235) if os.geteuid() == 0 else (os.getuid(), os.getgid()))


def test_an_output_folder_below_a_file_is_an_error_of_the_spec(tmp_path: Path):
    (tmp_path / "file").touch()
    facts = look_at_output("file/out", tmp_path)
    assert facts.user_error and "is a file" in facts.problem


def test_an_unwritable_output_folder_is_an_error_of_the_machine(tmp_path: Path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    if os.geteuid() == 0:
        os.chown(closed, 1234, 1234)
    facts = look_at_output("closed/out", tmp_path)
    assert "may not write" in facts.problem and not facts.user_error


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads everything")
def test_root_in_a_container_reads_only_files_that_every_user_may_read(tmp_path: Path):
    file = tmp_path / "theirs"
    file.touch(mode=0o600)
    os.chown(file, 1234, 1234)
    assert may_read(file, 0, 0) and not may_read(file, 0, 0, plain=True)
    file.chmod(0o644)
    assert may_read(file, 0, 0, plain=True)
