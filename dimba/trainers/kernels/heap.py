"""Settings of the C library's heap for training on a CPU."""

import ctypes
import sys

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_GROWTH = 1 << 30  # bytes of address space; memory is taken as it is touched


def keep_freed_memory() -> bool:
    """Keeps the memory that one step frees for the next; returns whether the C library can do so.

    A step frees gigabytes of activations and allocates as many again. glibc returns large blocks to the kernel, which
    then zeroes and maps every page anew: a tenth of a step and more. On CUDA torch's own allocator keeps them.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _GROWTH))
    accepted = [libc.mallopt(*each) for each in settings]  # a list: a rejected setting must not skip the later ones
    return all(accepted)
