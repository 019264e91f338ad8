"""Failures of a GPU in words."""

import json
from pathlib import Path

import pytest

from dimba.common.errors import HostCannot
from dimba.objectives.sft import SFT
from dimba.options.trainer import TrainerOptions
from dimba.supervisor.diagnosis import diagnose
from dimba.trainers.command import run_trainer

torch = pytest.importorskip("torch")

OPTIONS = SFT.parse(["--base-checkpoint", "base", "--dataset", "rows", "--output-dir", "out"])
WORDS = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA driver error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "NCCL error: unhandled cuda error, NCCL version 2.27\nncclUnhandledCudaError: Cuda failure 2 'out of memory'",
)


@pytest.mark.parametrize("words", WORDS)
def test_a_job_that_runs_out_of_gpu_memory_in_any_step_ends_with_a_hint(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(_options: TrainerOptions) -> int:
        raise RuntimeError(words)

    monkeypatch.setenv("DIMBA_RANK_DIR", str(tmp_path))
    monkeypatch.setenv("DIMBA_MEMORY_ESTIMATE", str(70 << 30))
    assert run_trainer(train, OPTIONS) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: the GPU ran out of memory") and words.splitlines()[0] in printed
    assert "Traceback" not in printed and "training.batch_size" in printed
    assert json.loads((tmp_path / "word.json").read_text())["reason"] == "gpu_out_of_memory"
    assert diagnose(1, f"RuntimeError: {words}", oom_kills=0)[0] == "gpu_out_of_memory"


def test_the_launchers_lines_for_eight_ranks_do_not_hide_the_error() -> None:
    below = [f"  rank      : {number}" for number in range(120)]
    tail = "\n".join([f"torch.OutOfMemoryError: {WORDS[0]}", *below, "torch.distributed ChildFailedError: "])
    assert diagnose(1, tail, oom_kills=0)[0] == "gpu_out_of_memory"


def test_a_gpu_without_kernels_is_refused_before_any_data_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from dimba.trainers.models.gpu_errors import check_gpu

    def no_kernel(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch, "ones", no_kernel)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])
    with pytest.raises(HostCannot, match=r"does not compute(?s:.*)capability 7\.0, PyTorch .* sm_75, sm_90"):
        check_gpu(torch.device("cuda", 0))


def test_a_device_that_computes_is_accepted() -> None:
    from dimba.trainers.models.gpu_errors import check_gpu

    check_gpu(torch.device("cpu"))


@pytest.mark.parametrize("can", [True, False])
def test_segments_grow_where_the_gpu_can_and_nobody_set_the_allocator(
    can: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dimba.trainers.kernels.allocator import grow_segments

    def empty(*_: object, **__: object) -> None:
        if not can:
            raise RuntimeError("CUDA driver error: operation not supported")

    settings: list[str] = []
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", settings.append)
    monkeypatch.setattr(torch, "empty", empty)
    assert grow_segments() is can
    assert settings == ["expandable_segments:True", *([] if can else ["expandable_segments:False"])]
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")
    assert not grow_segments() and len(settings) == 2 - can


def test_a_base_goes_straight_to_its_ranks_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from dimba.trainers.models.loading import Compute, _settings, reference_settings

    monkeypatch.setenv("LOCAL_RANK", "3")
    on_gpu = Compute(on_cpu=False, mixed="bf16")
    assert _settings(OPTIONS, on_gpu, frozen=False)["device_map"] == {"": 3}
    reference = reference_settings(OPTIONS, on_gpu)
    assert reference is not None and reference["dtype"] == torch.bfloat16 and reference["device_map"] == {"": 3}
    assert reference_settings(OPTIONS, Compute(on_cpu=True, mixed="no")) is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "device_map" not in _settings(OPTIONS, on_gpu, frozen=False)
