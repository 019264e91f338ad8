"""The memory probe: a step before training that leaves nothing behind except its measurement."""

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import QUESTIONS, write_rows

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow


class PretendedGpu:
    """A meter that reports fixed numbers in place of a GPU's."""

    def total(self) -> int:
        return 24 << 30

    def available(self) -> int:
        return 20 << 30

    def peak(self) -> tuple[int, int]:
        return 5 << 30, 4 << 30

    def reset_peak(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch: pytest.MonkeyPatch, caches: Path) -> Iterator[None]:
    import signal

    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: caches / "tokens")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def train(mode: str, base: Path, rows: Path, out: Path, *flags: object, status: int = 0) -> str:
    from dimba.objectives.registry import OBJECTIVES
    from dimba.trainers.command import run_trainer
    from dimba.trainers.objectives.registry import training_half

    named = ["--base-checkpoint", base, "--dataset", rows, "--output-dir", out, "--max-steps", 2, *flags]
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        ended = run_trainer(training_half(mode).train, OBJECTIVES[mode].parse([str(each) for each in named]))
    assert ended == status, output.getvalue()
    return output.getvalue()


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    [file] = folder.glob("*model.safetensors")
    return load_file(file)


GRPO = "grpo, full, with a reference"
ROWS = {
    "sft": QUESTIONS,
    "grpo": [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(12)],
    "dpo": [{"prompt": f"What is {n} + {n}?", "chosen": f"It is {2 * n}.", "rejected": "No."} for n in range(12)],
}
JOBS = {
    "sft, full": ("sft", ("--batch-size", 3, "--grad-accumulation-steps", 2)),
    "sft, lora": ("sft", ("--batch-size", 1, "--grad-accumulation-steps", 1, "--use-lora")),
    GRPO: (
        "grpo",
        ("--batch-size", 4, "--grad-accumulation-steps", 2, "--max-completion-length", 8, "--beta", 0.1),
    ),
    "dpo, full": ("dpo", ("--batch-size", 3, "--grad-accumulation-steps", 2)),
    "dpo, lora": ("dpo", ("--batch-size", 2, "--grad-accumulation-steps", 1, "--use-lora")),
}


def _jobs(*quick: str) -> list[Any]:
    """All jobs; those that are not named are proofs."""
    return [pytest.param(job, marks=() if job in quick else pytest.mark.proof) for job in JOBS]


@pytest.mark.parametrize("job", _jobs("sft, lora", GRPO, "dpo, full"))
def test_a_probed_run_ends_with_the_same_weights_to_the_last_bit(
    job: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mode, flags = JOBS[job]
    rows = write_rows(tmp_path / "rows.jsonl", ROWS[mode])
    base = _with_dropout(tiny_checkpoint, tmp_path / "base")
    train(mode, base, rows, tmp_path / "plain", *flags)
    monkeypatch.setattr("dimba.trainers.models.memory.meter_of", lambda _device: PretendedGpu())
    monkeypatch.setenv("DIMBA_MEMORY_ESTIMATE", str(6 << 30))
    output = train(mode, base, rows, tmp_path / "probed", *flags)
    assert "memory: a step at the longest length takes 5.0 GiB of 24.0 GiB" in output
    assert "6.0 GiB were estimated" in output
    plain, probed = weights(tmp_path / "plain"), weights(tmp_path / "probed")
    assert plain.keys() == probed.keys() and all(torch.equal(plain[name], probed[name]) for name in plain)
    losses = [_logged(tmp_path / name, "loss") for name in ("plain", "probed")]
    assert losses[0] == losses[1] and len(losses[0]) == 2
    assert _logged(tmp_path / "plain", "num_tokens") == _logged(tmp_path / "probed", "num_tokens")
    assert _logged(tmp_path / "probed", "peak_memory_bytes") == [5 << 30, 5 << 30]


def _with_dropout(base: Path, folder: Path) -> Path:
    """The base with dropout, which draws random numbers at every step."""
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    return folder


def _logged(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def _without_memory_to_keep_activations(trainer: Any, model: Any, inputs: Any) -> None:
    if not trainer.model.is_activation_checkpointing:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.mark.parametrize("job", [*_jobs(GRPO, "dpo, lora"), "sft, full, nearly"])
def test_activations_that_do_not_fit_switch_on_checkpointing_and_train_the_same(
    job: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class NearlyFull(PretendedGpu):
        def peak(self) -> tuple[int, int]:
            return 19 << 30, 18 << 30

    is_nearly_full = job.endswith(", nearly")
    mode, flags = JOBS[job.removesuffix(", nearly")]
    rows = write_rows(tmp_path / "rows.jsonl", ROWS[mode])
    train(mode, tiny_checkpoint, rows, tmp_path / "kept", *flags)
    meter = NearlyFull() if is_nearly_full else PretendedGpu()
    monkeypatch.setattr("dimba.trainers.models.memory.meter_of", lambda _device: meter)
    if not is_nearly_full:
        monkeypatch.setattr("dimba.trainers.models.memory._run_batch", _without_memory_to_keep_activations)
    output = train(mode, tiny_checkpoint, rows, tmp_path / "again", *flags)
    tried = [line for line in output.splitlines() if line.startswith("memory: activations would fill more than 90%")]
    expected = ["1 of 2 layers", "all 2 layers"][: 2 if is_nearly_full else 1]
    assert [line.partition("activation checkpointing of ")[2] for line in tried] == expected
    kept, again = weights(tmp_path / "kept"), weights(tmp_path / "again")
    assert all(torch.allclose(kept[name], again[name], atol=1e-6) for name in kept)
    if is_nearly_full:
        output = train(mode, tiny_checkpoint, rows, tmp_path / "off", *flags, "--activation-checkpointing", "off")
        assert "activations would fill" not in output


@pytest.mark.parametrize(
    ("flag", "processes", "samples", "sharded", "on_cpu", "checkpointing"),
    [
        ("auto", 1, False, False, True, "off"),
        ("auto", 1, False, False, False, "off, then more"),
        ("auto", 1, True, False, False, "off, then more"),
        ("auto", 2, False, False, False, "off, then more"),
        ("auto", 2, True, False, False, "on"),
        ("auto", 2, False, True, False, "on"),
        ("off", 2, False, True, False, "off"),
        ("on", 1, False, False, True, "on"),
        ("12", 1, False, False, False, "12, then more"),
        ("12", 2, True, False, False, "12"),
        ("offload", 1, False, False, False, "offload"),
        ("offload", 1, False, False, True, "on"),
    ],
)
def test_checkpointing_starts_small_on_a_gpu_if_a_first_step_can_test_it(
    flag: str,
    processes: int,
    samples: bool,
    sharded: bool,
    on_cpu: bool,
    checkpointing: str,
    monkeypatch: pytest.MonkeyPatch,
):
    from dimba.objectives.grpo import GRPO
    from dimba.objectives.sft import SFT
    from dimba.trainers.models.loading import Compute
    from dimba.trainers.objectives.run_settings import can_fall_back, first_checkpointing, run_settings

    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", str(sharded))
    objective = GRPO if samples else SFT
    named = ["--base-checkpoint", "base", "--dataset", "rows", "--output-dir", "out"]
    options = objective.parse([*named, "--activation-checkpointing", flag])
    tries = can_fall_back(options, objective)
    compute = Compute(on_cpu=on_cpu, mixed="no" if on_cpu else "bf16")
    first, _, then = checkpointing.partition(", ")
    assert str(first_checkpointing(options, compute, can_fall_back=tries).value) == first
    assert tries == bool(then) or on_cpu
    settings = run_settings(options, compute, can_fall_back=tries)
    assert settings["activation_checkpointing"] == (first != "off")
    unprobed = run_settings(options, compute, can_fall_back=False)["activation_checkpointing"]
    assert unprobed == (flag != "off" and not (flag == "auto" and on_cpu))


def test_a_step_that_does_not_fit_fails_the_job_before_training_with_numbers(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    monkeypatch.setattr("dimba.trainers.models.memory.meter_of", lambda _device: PretendedGpu())
    monkeypatch.setattr("dimba.trainers.models.memory._run_batch", full)
    monkeypatch.setenv("DIMBA_MEMORY_ESTIMATE", str(6 << 30))
    monkeypatch.setenv("DIMBA_RANK_DIR", str(tmp_path))
    output = train("sft", tiny_checkpoint, write_rows(tmp_path / "rows.jsonl", QUESTIONS), tmp_path / "out", status=1)
    assert "more than the GPU's 24.0 GiB" in output and "6.0 GiB were estimated" in output
    assert "step 1/" not in output
    word = json.loads((tmp_path / "word.json").read_text())
    assert word["reason"] == "gpu_out_of_memory" and "training.batch_size" in word["hint"]


def test_the_probe_has_the_tokens_of_a_batch_packed_or_padded():
    from functools import partial

    from dimba.trainers.data.packing import collate_packed, collate_padded
    from dimba.trainers.models.memory import longest_rows

    padded = longest_rows(partial(collate_padded, pad_id=0), rows=4, length=8)
    assert padded["attention_mask"].shape == (4, 8) and int(padded["attention_mask"].sum()) == 31
    packed = longest_rows(partial(collate_packed, max_length=8, pad_id=0), rows=4, length=8)
    assert packed["input_ids"].shape == (4, 8) and int((packed["position_ids"] == 0).sum()) == 5
    assert longest_rows(partial(collate_padded, pad_id=0), rows=1, length=8)["input_ids"].shape == (1, 8)
