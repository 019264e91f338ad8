"""Whether packed rows see nothing of each other, with every attention that there is."""

import torch
from transformers import AutoModelForCausalLM

from dimba.trainers.data.packing_probe import probe_packing
from scripts.gpu.context import Context, Found
from scripts.gpu.jobs import base
from scripts.gpu.results import ABSENT, RIGHT, WRONG, Result

_ATTENTION = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")


def attention(context: Context) -> Found:
    """Packed rows against separate ones, per token, with every attention that there is."""
    dtypes = (torch.float32, torch.bfloat16) if context.device == "cuda" else (torch.float32,)
    for name in _ATTENTION:
        for dtype in dtypes:
            yield _probed(context, name, dtype)


def _probed(context: Context, name: str, dtype: torch.dtype) -> Result:
    case = f"{name} {str(dtype).removeprefix('torch.')}"
    try:
        model = AutoModelForCausalLM.from_pretrained(base(context), attn_implementation=name, dtype=dtype)
    except (ImportError, ValueError) as error:
        return context.result(case, ABSENT, str(error).splitlines()[0][:100])
    found = probe_packing(model.to(context.device))
    return context.result(case, RIGHT if found.is_exact else WRONG, found.reason, difference=found.difference)
