"""Names of processes and machines that are never reused: `pid:start time`, and the boot of a kernel."""

import os
import pwd
from contextlib import suppress
from pathlib import Path


def start_time(pid: int) -> str:
    """The start time of a process in clock ticks since boot, as in proc(5); empty once it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else fields[18]


def own_process() -> str:
    """The name of this process."""
    return f"{os.getpid()}:{start_time(os.getpid())}"


def is_alive(name: str | None) -> bool:
    """Whether the process of this name still runs; text after the start time is ignored."""
    pid, _, rest = (name or "").partition(":")
    return pid.isdecimal() and start_time(int(pid)) == rest.partition(":")[0] != ""


def own_boot() -> str:
    """The id of this machine's boot, which its containers share; empty if the kernel does not report it."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return ""


def own_pids() -> str:
    """The id of the namespace in which this process sees process ids; a container has one of its own."""
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def own_host() -> str:
    """The name of this machine, or of this container."""
    return os.uname().nodename


def own_user() -> str:
    """The name of this process's user; the number for a user without a name."""
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())
