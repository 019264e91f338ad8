"""What a CPU's training asks of the C library's heap."""

import ctypes
import sys

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_GROWTH = 1 << 30  # bytes of address space; memory is taken as it is touched


def keep_freed_memory() -> bool:
    """Keeps what one step frees for the next; returns whether the C library can.

    A step frees gigabytes of activations and asks for the same again. Handed back to the kernel in between, as glibc
    does with large blocks, each page is zeroed and mapped anew: a tenth of a step and more. torch has no allocator of
    its own on a CPU that would keep them, as it has on CUDA.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _GROWTH))
    told = [libc.mallopt(*each) for each in settings]  # each of them, also behind one that is declined
    return all(told)
