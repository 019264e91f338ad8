"""Failures of a GPU in words: too little memory at any time of a job, and a GPU that does not compute."""

from __future__ import annotations

import os
import re

import torch

from dimba.common.contract import ENV_MEMORY
from dimba.common.errors import HostCannot, RunFailed, first_line
from dimba.common.units import size

SMALLER_HINT = (
    "lower `training.batch_size` (and raise `grad_accumulation_steps` alike), lower `training.max_length`, or use "
    "`method: lora` or `qlora`; `batch_size: auto` chooses the largest batch that is estimated to fit, and "
    "`trainer_args: {activation-checkpointing: offload}` needs the least memory"
)
# Of torch's allocator, the CUDA runtime and driver, cuBLAS and NCCL; only the first has a class of its own.
_OUT_OF_MEMORY = re.compile(
    r"CUDA out of memory|CUDA (?:driver )?error: out of memory|CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED"
    r"|Cuda failure 2\b|Cuda failure 'out of memory'"
)
_NO_KERNEL = "no kernel image is available"


def out_of_memory(error: BaseException) -> RunFailed | None:
    """The failure of a job whose GPU ran out of memory; None for any other error."""
    if not (isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error))):
        return None
    problem = f"the GPU ran out of memory{estimate_note()}\n  | {first_line(error)}"
    return RunFailed(problem, SMALLER_HINT, reason="gpu_out_of_memory")


def estimate_note() -> str:
    """The plan's estimate as the end of a sentence; empty without one."""
    estimate = os.environ.get(ENV_MEMORY, "")
    return f"; {size(int(estimate))} were estimated" if estimate.isdecimal() else ""


def check_gpu(device: torch.device) -> None:
    """Computes one sum on the GPU; raises HostCannot if it cannot, as one that is older or newer than torch's kernels.

    Its first kernel would fail only after minutes of data work.
    """
    try:
        if int(torch.ones(2, device=device).sum()) == 2:
            return
        problem = "one and one were not two"
    except RuntimeError as error:
        problem = first_line(error)
    raise HostCannot(f"the GPU does not compute: {problem}", _hint(problem, device))


def _hint(problem: str, device: torch.device) -> str:
    if _NO_KERNEL not in problem:
        return "`nvidia-smi` shows its mode and its errors; `dimba doctor` tests it"
    capability = "{}.{}".format(*torch.cuda.get_device_capability(device))
    built_for = ", ".join(torch.cuda.get_arch_list()) or "no GPU"
    return f"it has compute capability {capability}, PyTorch {torch.__version__} is built for {built_for}: use another"
