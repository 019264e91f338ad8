"""Ports of this machine: which process listens on one."""

import socket
from contextlib import suppress
from pathlib import Path

_LISTENS = "0A"  # a state in /proc/net/tcp


def holder_of(port: int) -> str:
    """The process that listens on a port, as `python3 (pid 123)`; empty if it is another user's or unknown."""
    inodes = {f"socket:[{inode}]" for inode in _listening(port)}
    for folder in Path("/proc").glob("[0-9]*") if inodes else ():
        with suppress(OSError):
            if any(str(each.readlink()) in inodes for each in (folder / "fd").iterdir()):
                name = (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
                return f"{name} (pid {folder.name})"
    return ""


def _listening(port: int) -> set[str]:
    """The inodes of sockets that listen on a port."""
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def free_port(address: str) -> int:
    """A port of `address` that is free now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
