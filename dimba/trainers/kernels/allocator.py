"""Settings of torch's allocator for training on a GPU."""

import os

import torch

from dimba.trainers.ranks import local_rank

_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_PROBE = 64 << 20  # bytes: more than the allocator holds already


def grow_segments() -> bool:
    """Enlarges the allocator's segments in place of adding others; returns whether the GPU can do so.

    Batches of changing lengths leave gaps in segments of fixed size, which no larger tensor fits. The user's own
    settings in the environment stay. vLLM's memory pool on the same GPU does not work with it.
    """
    if any(name in os.environ for name in _VARIABLES):
        return False
    try:
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
        torch.empty(_PROBE, dtype=torch.uint8, device=torch.device("cuda", local_rank()))
    except (AttributeError, RuntimeError):  # an older torch; a virtual GPU without management of addresses
        if hasattr(torch._C, "_accelerator_setAllocatorSettings"):
            torch._C._accelerator_setAllocatorSettings("expandable_segments:False")
        return False
    return True
