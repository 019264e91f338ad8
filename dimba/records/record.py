"""RunRecord: run.json, as a value."""

from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

SETTLING = ("queued", "building", "starting")  # on record, and its job does not run yet
ACTIVE = (*SETTLING, "running", "stopping")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of the run's job."""

    number: int
    job: str | None = None  # container id, or `pid:start` of a process
    started: str | None = None
    ended: str | None = None
    exit_code: int | None = None
    exit_reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What is known about one run; times are ISO 8601 in UTC."""

    id: str
    name: str
    status: str = "queued"
    exit_reason: str | None = None
    exit_code: int | None = None
    runner: str = ""
    mode: str = ""
    method: str = ""
    output_dir: str = ""
    container_id: str | None = None
    image: str | None = None
    image_digest: str | None = None
    git_revision: str | None = None
    git_dirty: bool | None = None
    git_diff: str | None = None  # masked; what is long is cut, and whole in changes.patch
    lock_hash: str | None = None
    base_hash: str | None = None  # sha256:… of local files, commit:… of what came from the Hub
    data_hash: str | None = None
    seed: int | None = None
    command: tuple[str, ...] = ()
    same_as: str | None = None  # the run that it repeats
    driver: str | None = None
    gpus: tuple[str, ...] = ()
    gpu_names: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()  # what its spec brought along, and whoever launched it agreed to
    attempts: tuple[Attempt, ...] = ()
    created: str = ""
    started: str | None = None
    ended: str | None = None
    allow_cpu: bool = False
    share: bool = False
    retries: int = 0
    time_limit: float | None = None  # seconds an attempt
    restart_hung: bool = False
    stop_grace: float = 60.0  # seconds
    estimated_memory_bytes: int | None = None  # of one GPU
    peak_memory_bytes: int | None = None  # as torch measured it on the first one
    folder: str = ""  # that dimba was run in, which relative paths of the spec mean
    launcher: str | None = None  # the process that has it in hand until its job runs
    waits_for: str | None = None  # while it is queued

    @property
    def is_started(self) -> bool:
        """Whether its newest attempt has a job that has not ended, as far as is on record."""
        return bool(self.attempts and self.attempts[-1].job and not self.attempts[-1].ended)

    def as_json(self) -> dict[str, Any]:
        """What run.json holds."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "RunRecord":
        """Reads what any version wrote: keys that are not known are ignored."""
        known = _known(cls, value)
        attempts = tuple(Attempt(**_known(Attempt, each)) for each in known.pop("attempts", ()))
        for key in ("gpus", "gpu_names", "overrides", "trusted", "command"):
            known[key] = tuple(known.get(key) or ())
        return cls(attempts=attempts, **known)._checked()

    def _checked(self) -> "RunRecord":
        """Whatever is there is of its kind: a record may have been written by anybody. Raises ValueError."""
        texts = {name: getattr(self, name) for name in ("id", "name", "status", "runner", "output_dir", "created")}
        if wrong := [name for name, value in texts.items() if not isinstance(value, str)]:
            raise ValueError(f"`{wrong[0]}` is no text")
        for time in filter(None, (self.created, self.started, self.ended)):
            datetime.fromisoformat(time)
        return self

    def with_attempt(self, **changes: Any) -> "RunRecord":
        """The same record with its last attempt changed."""
        *before, last = self.attempts
        return replace(self, attempts=(*before, replace(last, **changes)))

    def closed(self, status: str, reason: str, exit_code: int | None) -> "RunRecord":
        """The record of a run that has ended now."""
        ended = now()
        last = self.with_attempt(ended=ended, exit_code=exit_code, exit_reason=reason) if self.attempts else self
        return replace(last, status=status, exit_reason=reason, exit_code=exit_code, ended=ended)


def _known(kind: type, value: dict[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {key: item for key, item in value.items() if key in names}


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
