"""The clocks: a wrong clock breaks certificates and every decision by the age of a file."""

import tempfile
import time
from pathlib import Path

from dimba.commands.doctor.check import Check
from dimba.commands.doctor.machine import Machine
from dimba.common.project import project_root
from dimba.host.output import nearest_existing
from dimba.host.probe import runs_folder

_TOLERANCE = 60  # seconds
_SET = "`sudo timedatectl set-ntp true` on the machine whose clock is wrong"


def check_clock(machine: Machine) -> list[Check]:
    """Compare this machine's clock with the engine's, the disk's, and the times of existing files."""
    offsets = [("the engine's clock", machine.details.skew if machine.details else 0.0)]
    offsets.append((f"the clock of the disk at {nearest_existing(machine.output)}", _disk_skew(machine)))
    future = _newest(machine)
    if future and future[1] > 0:
        offsets.append((f"the time of {future[0]}", future[1]))
    return [compare_clocks(offsets)]


def compare_clocks(offsets: list[tuple[str, float]]) -> Check:
    """The check of other clocks; `offsets`: (name of a clock, seconds by which it is ahead of this machine's)."""
    wrong = [f"{clock} is {_written(offset)}" for clock, offset in offsets if abs(offset) > _TOLERANCE]
    if wrong:
        return Check(name="clock", status="warning", detail="; ".join(wrong), fix=_SET)
    return Check(name="clock", status="ok", detail=time.strftime("%Y-%m-%d %H:%M UTC, and all agree", time.gmtime()))


def _written(offset: float) -> str:
    return f"{abs(offset):,.0f} s {'ahead' if offset > 0 else 'behind'}"


def _disk_skew(machine: Machine) -> float:
    """Seconds by which the disk's clock is ahead: a file server has a clock of its own."""
    before = time.time()
    try:
        with tempfile.NamedTemporaryFile(dir=nearest_existing(machine.output)) as file:
            file.write(b"\n")
            file.flush()
            written = Path(file.name).stat().st_mtime
    except OSError:
        return 0
    return written - min(max(written, before - 1), time.time())  # file systems round


def _newest(machine: Machine) -> tuple[Path, float] | None:
    """(the newest file, seconds until its time): a time in the future shows that the clock was set back."""
    places = [project_root() / "Dockerfile"]
    for folder in (machine.folder, runs_folder(machine.folder)):
        places += folder.iterdir() if folder.is_dir() else []
    now = time.time()
    ahead = [(path, path.lstat().st_mtime - now) for path in places if path.exists()]
    return max(ahead, key=lambda each: each[1], default=None)
