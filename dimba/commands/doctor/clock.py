"""The time: a clock that is off breaks certificates, and what is decided by the age of files."""

import tempfile
import time
from pathlib import Path

from dimba.commands.doctor.check import Check
from dimba.commands.doctor.scene import Scene
from dimba.host.output import nearest_existing
from dimba.host.probe import project_root, runs_folder

_MOST = 60  # seconds
_SET = "`sudo timedatectl set-ntp true` on the one that is wrong"


def check_clock(scene: Scene) -> list[Check]:
    """This machine's clock against the engine's, the disk's, and files that were written before."""
    offs = [("the engine's clock", scene.details.skew if scene.details else 0.0)]
    offs.append((f"the clock of the disk at {nearest_existing(scene.output)}", _disk_skew(scene)))
    future = _newest(scene)
    if future and future[1] > 0:
        offs.append((f"the time of {future[0]}", future[1]))
    return [judge_clock(offs)]


def judge_clock(offs: list[tuple[str, float]]) -> Check:
    """`offs`: what was held against this machine's clock, and by how many seconds it is ahead."""
    wrong = [f"{what} is {_far(off)}" for what, off in offs if abs(off) > _MOST]
    if wrong:
        return Check(name="clock", status="warning", detail="; ".join(wrong), fix=_SET)
    return Check(name="clock", status="ok", detail=time.strftime("%Y-%m-%d %H:%M UTC, and all agree", time.gmtime()))


def _far(off: float) -> str:
    return f"{abs(off):,.0f} s {'ahead' if off > 0 else 'behind'}"


def _disk_skew(scene: Scene) -> float:
    """Of a file written now; a file server has a clock of its own."""
    before = time.time()
    try:
        with tempfile.NamedTemporaryFile(dir=nearest_existing(scene.output)) as file:
            file.write(b"\n")
            file.flush()
            written = Path(file.name).stat().st_mtime
    except OSError:
        return 0
    return written - min(max(written, before - 1), time.time())  # file systems round


def _newest(scene: Scene) -> tuple[Path, float] | None:
    """The file with the time furthest ahead: where one is in the future, the clock was set back."""
    places = [project_root() / "Dockerfile"]
    for folder in (scene.folder, runs_folder(scene.folder)):
        places += folder.iterdir() if folder.is_dir() else []
    now = time.time()
    ahead = [(path, path.lstat().st_mtime - now) for path in places if path.exists()]
    return max(ahead, key=lambda each: each[1], default=None)
