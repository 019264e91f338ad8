"""Choices for speed, by the trainer or by flags, that do not change the losses."""

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dimba.common import contract
from dimba.common.errors import BadInput, HostCannot
from dimba.objectives.sft import SFT, SftOptions
from dimba.trainers.data.collation import Layout, choose_layout
from dimba.trainers.data.packing import collate_packed, collate_padded
from dimba.trainers.kernels import varlen
from dimba.trainers.kernels.attention import Work
from dimba.trainers.models import attention_kinds, loading
from tests.conftest import REPOSITORY, write_rows
from tests.trainers.test_packing import LLAMA, SLIDING, tiny
from tests.trainers.test_sft import metrics, run

pytestmark = pytest.mark.slow
NAMED = ["--base-checkpoint", "base", "--dataset", "rows", "--output-dir", "out"]
AUTO = SFT.parse([*NAMED, "--batch-size", "4", "--max-length", "64"])


def flags(**given: Any) -> SftOptions:
    return replace(AUTO, **given)


def chosen(model: Any, **given: Any) -> Layout:
    work = Work(device=torch.device("cpu"), mixed="no", rows=4, length=16, longest=64)
    return choose_layout(flags(**given), model, 0, work)


def test_the_collator_follows_the_model_and_the_flags():
    def layout(model: Any, **given: Any) -> tuple[Any, str]:
        return chosen(model, **given).collate.func, model.config._attn_implementation

    assert layout(tiny("Llama", LLAMA)) == (collate_packed, "dimba_documents")
    assert layout(tiny("Llama", LLAMA), attention="sdpa") == (collate_packed, "sdpa")
    assert layout(tiny("Llama", LLAMA), attention="documents", batch_size=1) == (collate_packed, "dimba_documents")
    assert layout(tiny("Llama", LLAMA), packing="off") == (collate_padded, "sdpa")
    assert layout(tiny("Llama", LLAMA), batch_size=1) == (collate_padded, "sdpa")
    assert layout(tiny("Mistral", SLIDING)) == (collate_packed, "sdpa")


def test_attention_within_documents_is_refused_for_padded_rows_and_windows():
    with pytest.raises(BadInput, match="--packing is off"):
        chosen(tiny("Llama", LLAMA), attention="documents", packing="off")
    with pytest.raises(BadInput, match="not to all tokens before"):
        chosen(tiny("Mistral", SLIDING), attention="documents")


@pytest.mark.parametrize(
    ("triton", "compiler", "folder", "problem"),
    [
        (False, False, "empty", None),
        (True, True, "headers", None),
        (True, False, "headers", "no C compiler"),
        (True, True, "empty", "Python.h is missing"),
    ],
)
def test_a_missing_compiler_for_triton_is_reported_before_the_data_are_read(
    triton: bool, compiler: bool, folder: str, problem: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for each in ("empty", "headers"):
        (tmp_path / each).mkdir()
    (tmp_path / "headers" / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(loading, "find_spec", lambda _: object() if triton else None)
    monkeypatch.setattr(loading, "which", lambda name: "/usr/bin/gcc" if compiler and name == "gcc" else None)
    monkeypatch.setattr(loading.sysconfig, "get_paths", lambda: {"include": str(tmp_path / folder)})
    with pytest.raises(HostCannot, match=problem) if problem else nullcontext():
        loading.check_compiler()


@pytest.mark.parametrize(
    ("flag", "accelerate", "instead", "able", "samples", "mixed", "reason"),
    [
        ("auto", None, False, True, False, "no", ""),
        ("auto", "bf16", False, True, False, "bf16", ""),
        ("auto", "bf16", True, True, False, "no", ""),
        ("no", "bf16", False, True, False, "no", ""),
        ("bf16", "no", False, True, False, "bf16", ""),
        ("bf16", None, False, False, False, "no", "neither avx512_bf16 nor amx"),
        ("auto", "fp16", False, True, False, "no", "a CPU does not train in fp16"),
        ("auto", "bf16", False, True, True, "no", "sampled and scored in float32"),
    ],
)
def test_a_cpu_trains_in_float32_unless_bf16_is_requested_and_supported(
    flag: str,
    accelerate: str | None,
    instead: bool,
    able: bool,
    samples: bool,
    mixed: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    import torch

    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if accelerate:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", accelerate)
    if instead:
        monkeypatch.setenv(contract.ENV_ON_CPU_INSTEAD, "1")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert loading.choose_compute("cpu", flag, samples=samples) == loading.Compute(on_cpu=True, mixed=mixed)
    printed = capsys.readouterr().out
    assert reason in printed and bool(reason) == bool(printed)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = [{"question": f"Count to {n}", "answer": " ".join(map(str, range(n % 17 + 1)))} for n in range(64)]
    return write_rows(tmp_path_factory.mktemp("rows") / "data.jsonl", made)


STEPS = ("--batch-size", "4", "--grad-accumulation-steps", "2", "--max-steps", "6", "--learning-rate", "1e-3")


def losses(base: Path, rows: Path, out: Path, *more: str) -> tuple[list[float], str]:
    output = run(base, rows, out, *STEPS, "--device", "cpu", *more)
    return [line["loss"] for line in metrics(out)], output


def test_no_choice_for_speed_changes_the_losses(tiny_checkpoint: Path, rows: Path, tmp_path: Path):
    base, output = losses(tiny_checkpoint, rows, tmp_path / "auto")
    assert "float32, rows packed, attention within documents, activation checkpointing off" in output
    choices = {
        "checkpointing": (("--activation-checkpointing", "on"), "activation checkpointing of all"),
        "sdpa": (("--attention", "sdpa"), "attention sdpa"),
        "eager": (("--attention", "eager", "--packing", "off"), "rows padded, attention eager"),
        "lora": (("--use-lora", "--learning-rate", "1e-12", "--attention", "sdpa"), "rows packed"),
    }
    for name, (more, expected) in choices.items():
        found, output = losses(tiny_checkpoint, rows, tmp_path / name, *more)
        assert expected in output
        if name != "lora":
            assert found == pytest.approx(base, abs=2e-5), name


@pytest.mark.skipif(loading._cpu_precision("bf16", samples=False) == "no", reason="this CPU does not compute in bf16")
@pytest.mark.parametrize("method", [(), pytest.param(("--use-lora",), marks=pytest.mark.proof), ("--use-qlora",)])
def test_bf16_on_a_cpu_stays_close_to_float32_and_resumes_exactly(
    method: tuple[str, ...], tiny_checkpoint: Path, rows: Path, tmp_path: Path
):
    exact, _ = losses(tiny_checkpoint, rows, tmp_path / "float32", *method)
    mixed = (*method, "--mixed-precision", "bf16", "--save-steps", "3")
    found, output = losses(tiny_checkpoint, rows, tmp_path / "bf16", *mixed)
    assert "mixed bf16" in output and found != exact
    assert found == pytest.approx(exact, abs=5e-3)
    resumed = ("--resume-from-checkpoint", str(tmp_path / "bf16" / "checkpoint-3"))
    run(tiny_checkpoint, rows, tmp_path / "again", *STEPS, *mixed, *resumed)
    assert [line["loss"] for line in metrics(tmp_path / "again")] == found[3:]


def test_flash_attention_is_refused_on_a_cpu(tiny_checkpoint: Path, rows: Path, tmp_path: Path):
    flash = ("--attention", "flash_attention_2", "--device", "cpu")
    assert "it is for CUDA" in run(tiny_checkpoint, rows, tmp_path / "out", *flash, status=2)


@pytest.mark.parametrize(
    ("kind", "method", "mixed", "problem"),
    [
        ("auto", "full", "no", ""),
        ("flex_attention", "full", "no", ""),
        ("varlen", "full", "bf16", ""),
        ("varlen", "lora", "no", ""),
        ("varlen", "full", "no", "bf16 or fp16, and this job trains in float32"),
        ("flash_attention_2", "full", "no", "bf16 or fp16"),
        ("flash_attention_2", "full", "bf16", "flash-attn is not installed"),
        ("flash_attention_3", "full", "fp16", "FlashAttention 3 is not installed"),
    ],
)
def test_an_attention_that_this_machine_or_precision_lacks_is_refused(kind: str, method: str, mixed: str, problem: str):
    with pytest.raises(BadInput, match=problem) if problem else nullcontext():
        assert set(attention_kinds.requested_attention(kind, method, mixed, on_cpu=False)) <= {"attn_implementation"}
    for each in ("varlen", "flex_attention", "flash_attention_3"):
        with pytest.raises(BadInput, match="it is for CUDA"):
            attention_kinds.requested_attention(each, method, "no", on_cpu=True)


def test_an_old_torch_has_no_varlen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(varlen, "_PARAMETERS", frozenset())
    with pytest.raises(BadInput, match=r"torch .* does not have it"):
        attention_kinds.requested_attention("varlen", "full", "bf16", on_cpu=False)


def test_bitsandbytes_is_imported_only_if_a_model_or_the_optimiser_may_need_it(tiny_checkpoint: Path, tmp_path: Path):
    (tmp_path / "config.json").write_text('{"quantization_config": {}}')
    for base, flags, hidden in (
        (tiny_checkpoint, [], True),
        (tiny_checkpoint, ["--use-qlora"], False),
        (tiny_checkpoint, ["--optimizer", "adamw_8bit"], False),
        (tmp_path, [], False),
    ):
        named = ["--base-checkpoint", str(base), *NAMED[2:], *flags]
        code = (
            "from dimba.objectives.sft import SFT; from dimba.trainers.command import hide_bitsandbytes;"
            f"hide_bitsandbytes(SFT.parse({named}));"
            "import importlib.util; print(importlib.util.find_spec('bitsandbytes') is None)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
        assert done.stdout.strip() == str(hidden)
