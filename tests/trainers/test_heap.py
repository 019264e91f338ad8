"""Training on a CPU keeps the memory that a step frees, for the next step."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource
from dimba.trainers.kernels.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        block = bytearray(b"x") * (64 << 20)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
print(before, keep_freed_memory(), faults() and faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_reused_without_new_page_faults():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    before, can, after = done.stdout.split()
    assert can == "True" and int(after) < int(before) / 20


def test_another_c_library_is_not_changed(monkeypatch: pytest.MonkeyPatch):
    from dimba.trainers.kernels import heap

    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    assert heap.keep_freed_memory() is False
