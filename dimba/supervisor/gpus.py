"""A test of the GPUs through the CUDA driver alone: it takes milliseconds, importing torch takes seconds."""

import ctypes


def gpu_problem(wanted: int) -> str:
    """The reason why `wanted` GPUs do not work in this process; empty if they do."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "the NVIDIA driver's libcuda.so.1 is not visible here"
    status = cuda.cuInit(0)
    count = ctypes.c_int(0)
    if status or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return f"the NVIDIA driver does not start (CUDA error {status})"
    return "" if count.value >= wanted else f"only {count.value} work"
