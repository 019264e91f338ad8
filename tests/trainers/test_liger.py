"""liger-kernel's own kernels in Triton's interpreter: they train alike, by the proof that a job makes on a GPU.

No environment of the tests has these packages. To run it:

    pip install --target FOLDER --no-deps liger-kernel triton
    TRITON_INTERPRET=1 PYTHONPATH=FOLDER:. pytest tests/trainers/test_liger.py
"""

import contextlib
import importlib
import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from dimba.trainers.kernels.liger import LigerKernels
from dimba.trainers.kernels.proof import prove
from tests.trainers.test_packing import LLAMA, tiny

pytestmark = [
    pytest.mark.proof,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") != "1" or find_spec("liger_kernel") is None,
        reason="needs liger-kernel and triton, and TRITON_INTERPRET=1",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _complete_interpreter() -> Iterator[None]:
    """The interpreter (Triton 3.7) passes floats as Python's own, and knows no functions of libdevice."""
    import numpy
    import triton.language as tl
    from triton.runtime import interpreter

    original = interpreter._implicit_cvt

    def convert(value: Any) -> Any:
        if isinstance(value, float):
            handle = interpreter.TensorHandle(numpy.array([value], dtype=numpy.float32), tl.float32)
            return tl.tensor(handle, tl.float32)
        return original(value)

    patch = pytest.MonkeyPatch()
    patch.setattr(interpreter, "_implicit_cvt", convert)
    patch.setattr(importlib.import_module("liger_kernel.ops.rms_norm"), "rsqrt", lambda x: tl.rsqrt(x))
    patch.setattr(importlib.import_module("liger_kernel.ops.geglu"), "tanh", lambda x: 2 * tl.sigmoid(2 * x) - 1)
    yield
    patch.undo()


@pytest.mark.parametrize(
    "family", ["Llama", "Qwen2", "Qwen3", "Mistral", "Gemma", "Gemma2", "Phi3", "Olmo2", "Granite"]
)
def test_ligers_kernels_train_alike_in_float32_and_fp16(family: str):
    model = tiny(family, {**LLAMA, "head_dim": 8})
    proofs = [prove(model, LigerKernels(model), torch.float32, contextlib.nullcontext)]
    proofs.append(prove(model.half(), LigerKernels(model), torch.float16, lambda: torch.autocast("cpu", torch.float16)))
    assert all(each.is_equal for each in proofs), proofs
