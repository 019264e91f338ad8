"""The owner of an output folder as a value, and the refusal of a folder that has one."""

import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dimba.common.contract import ENV_RUNS, OWNER_FILE, absolute
from dimba.common.processes import own_boot, own_host, own_pids, own_process, own_user

_MACHINE = Path("/etc/machine-id")


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who writes in an output folder."""

    run_id: str = ""  # empty for a trainer without a launcher
    run: str = ""  # the folder of the run's record
    user: str = "an unknown user"
    host: str = ""
    machine: str = ""  # machine-id(5)
    boot: str = ""
    pids: str = ""  # the namespace of `process`
    process: str = ""
    since: str = ""

    def __str__(self) -> str:
        what = f"run `{self.run_id}`" if self.run_id else f"a trainer (process {self.process.partition(':')[0] or '?'})"
        host = f" on {self.host}" if self.host else ""
        return f"{what} of {self.user}{host}" + (f" since {self.since}" if self.since else "")

    @property
    def is_elsewhere(self) -> bool:
        """Whether its processes are on another machine, and not on this one before it restarted."""
        return bool(self.boot) and self.boot != own_boot() and self.host != own_host()


@dataclass(frozen=True)
class Use:
    """The use of an output folder by an owner that writes there, or may write there."""

    owner: Owner
    cause: str
    hint: str


def this_process(run_id: str = "", run: str = "") -> Owner:
    """This process as an owner, for the run with its record in the folder `run`."""
    return Owner(
        run_id=run_id,
        run=run,
        user=own_user(),
        host=own_host(),
        machine=own_machine(),
        boot=own_boot(),
        pids=own_pids(),
        process=own_process(),
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    )


def own_machine() -> str:
    """The id of this machine, empty without one."""
    with suppress(OSError):
        return _MACHINE.read_text(encoding="utf-8").strip()
    return ""


def use_by(owner: Owner, folder: Path, place: Path, *, is_known: bool) -> Use:
    """The use of `folder` by an owner with its record in `place`; `is_known` if the owner has not ended for sure."""
    where = "" if place == folder else f": {place}" if place.is_relative_to(folder) else f" through {place}"
    ways = f"give another folder{_end_it(owner, is_known=is_known)}"
    if not is_known or (owner.is_elsewhere and not owner.run_id):
        ways += f"; if it no longer runs, `rm {shlex.quote(str(place / OWNER_FILE))}`"
    return Use(owner, f"{folder} is in use{where} by {owner}", ways)


def _end_it(owner: Owner, *, is_known: bool) -> str:
    if not owner.run_id:
        return ""
    if not is_known:  # its record is not there to be closed
        return f", or end that one where it was launched: `dimba stop {owner.run_id}`"
    runs = Path(owner.run).parent if owner.run else None
    here = runs is None or runs == absolute(os.environ.get(ENV_RUNS) or "runs")
    stop = f"{'' if here else f'{ENV_RUNS}={shlex.quote(str(runs))} '}dimba stop {owner.run_id}"
    if not owner.is_elsewhere:
        return f", or end that one: `{stop}`"
    return f", or end that one on {owner.host}: `{stop}`; if that machine is gone, `{stop} --now` here"
