"""RunRecord: run.json as a value."""

from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any


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
    """The record of a run; times are ISO 8601 in UTC."""

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
    image_pins: str | None = None  # latest: the newest releases, untested with dimba; `packages` has them
    dimba_version: str | None = None
    git_revision: str | None = None
    git_dirty: bool | None = None
    git_diff: str | None = None  # masked; a long one is cut here and complete in changes.patch
    code_hash: str | None = None  # of dimba's own files, if no git repository tracks them
    lock_hash: str | None = None
    base_hash: str | None = None  # sha256:… of local files, commit:… of those from the Hub
    data_hash: str | None = None
    trainer_hash: str | None = None  # of a trainer that is in no image
    files: dict[str, str] = field(default_factory=dict)  # hashes of the files and models that trainer_args name
    spec_hash: str | None = None
    packages: dict[str, str] = field(default_factory=dict)  # versions that train, but of an image's tested ones
    effective_batch: int | None = None
    departures: tuple[dict[str, Any], ...] = ()  # `resume --anyway`: the attempt, and what had changed
    seed: int | None = None
    command: tuple[str, ...] = ()
    same_as: str | None = None  # the run that it repeats
    group: str | None = None  # the sweep that it belongs to
    recipe: dict[str, Any] | None = None  # of a spec that `dimba pack` wrote: its run, and what differs from it
    commits: dict[str, str] = field(default_factory=dict)  # of what it fetched from the Hub, as `models/owner/name`
    driver: str | None = None
    gpus: tuple[str, ...] = ()
    gpu_names: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()  # the trust requirements that the user agreed to
    attempts: tuple[Attempt, ...] = ()
    created: str = ""
    started: str | None = None
    ended: str | None = None
    allow_cpu: bool = False
    share: bool = False
    retries: int = 0
    time_limit: float | None = None  # seconds per attempt
    restart_hung: bool = False
    stop_grace: float = 60.0  # seconds
    estimated_memory_bytes: int | None = None  # per GPU
    peak_memory_bytes: int | None = None  # of the first GPU, as torch measured it
    learned: bool | None = None  # whether the run learned anything; None if the trainer does not report it
    learning: dict[str, Any] | None = None  # learning.json of the last attempt: cause, continuations and more
    store: dict[str, Any] | None = None  # its address, this machine's name there, what it has and what is pending
    folder: str = ""  # the current one at the launch, to which the spec's paths are relative
    launcher: str | None = None  # the process responsible for the run until its job runs
    # The machine of the launcher, its boot, and the namespace of process ids.
    host: str | None = None
    boot: str | None = None
    pids: str | None = None
    waits_for: str | None = None  # while the run is queued

    @property
    def is_started(self) -> bool:
        """Whether the newest attempt has a job without a recorded end."""
        return bool(self.attempts and self.attempts[-1].job and not self.attempts[-1].ended)

    @property
    def learning_problem(self) -> str:
        """Why a run that succeeded learned nothing; empty for any other run."""
        if self.learned is not False:
            return ""
        cause = self.learning.get("cause") if isinstance(self.learning, dict) else None
        return str(cause or "its trainer gives no cause")

    def as_json(self) -> dict[str, Any]:
        """The content of run.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "RunRecord":
        """Reads the record of any version; ignores unknown keys, and raises ValueError for a value of a wrong type."""
        known = _known(cls, value)
        attempts = tuple(Attempt(**_known(Attempt, each)) for each in known.pop("attempts", ()))
        for key in ("gpus", "gpu_names", "overrides", "trusted", "command", "departures"):
            known[key] = tuple(known.get(key) or ())
        return cls(attempts=attempts, **known)._validated()

    def _validated(self) -> "RunRecord":
        """This record, if its values have their types, as any program may have written it. Raises ValueError."""
        texts = {name: getattr(self, name) for name in ("id", "name", "status", "runner", "output_dir", "created")}
        if wrong := [name for name, value in texts.items() if not isinstance(value, str)]:
            raise ValueError(f"`{wrong[0]}` is not text")
        for time in filter(None, (self.created, self.started, self.ended)):
            datetime.fromisoformat(time)
        return self

    def with_attempt(self, **changes: Any) -> "RunRecord":
        """This record with changes to its last attempt."""
        *before, last = self.attempts
        return replace(self, attempts=(*before, replace(last, **changes)))

    def closed(self, status: str, reason: str, exit_code: int | None) -> "RunRecord":
        """This record, with the run ended now."""
        return replace(
            self._with_ended_attempt(reason, exit_code),
            status=status,
            exit_reason=reason,
            exit_code=exit_code,
            ended=now(),
            waits_for=None,
        )

    def retried(self, reason: str, exit_code: int | None) -> "RunRecord":
        """This record, with its newest attempt ended now and the run queued for the next one."""
        waits_for = f"attempt {len(self.attempts) + 1} of {self.retries + 1}, as the last one ended: {reason}"
        return replace(self._with_ended_attempt(reason, exit_code), status="queued", waits_for=waits_for)

    def _with_ended_attempt(self, reason: str, exit_code: int | None) -> "RunRecord":
        if not self.attempts or self.attempts[-1].ended:
            return self
        return self.with_attempt(ended=now(), exit_code=exit_code, exit_reason=reason)


def _known(kind: type, value: dict[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {key: item for key, item in value.items() if key in names}


def now() -> str:
    """The current time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
