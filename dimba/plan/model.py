"""LaunchPlan: one value that `plan` prints and `launch` executes."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dimba.common.contract import ENV_ATTEMPT_DIR, ENV_RUN_ID
from dimba.host.facts import CheckpointFacts, DataFacts, Gpu, ImageFacts


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A host path at the same path inside."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True, kw_only=True)
class Omitted:
    """A value of the spec that the trainer has no flag for."""

    key: str
    value: str


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """Batch arithmetic of the job; None where the number of rows is not known before the trainer looks."""

    processes: int
    batch_size: int  # of a process, at a time
    effective_batch: int  # the same for any number of processes
    accumulation: int  # batches of a process an optimiser step; with GRPO raised where groups would not be whole
    completions: int | None  # of a prompt, with GRPO
    per_epoch: int | None
    total: int | None


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes of GPU memory of one process, at the moment of a step at which they are most: `peak` names it."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    buckets: int = 0  # DDP's copy of the gradients
    gathered: int = 0  # whole layers, where the model is shared out
    reference: int = 0
    reward: int = 0
    copies: int = 0  # of weights, in the type that autocast computes in
    inputs: int = 0  # of layers, kept to compute them again; or all that layers keep for the backward pass
    layer: int = 0  # one layer, computed again or the last, and its gradients
    mask: int = 0
    head: int = 0  # what the vocabulary takes: tiles of logits, gradients of the head and the embedding
    cache: int = 0  # keys and values of completions that are sampled
    sampling: int = 0  # what else that takes
    fragments: int = 0
    context: int = 0
    peak: str = ""  # empty: model states are all that was counted
    model_states: int  # weights, adapter, gradients and optimiser, whether all of them are there at the peak or not

    @property
    def terms(self) -> dict[str, int]:
        """Every term by its name."""
        named = asdict(self).items()
        return {name: value for name, value in named if isinstance(value, int) and name != "model_states"}

    @property
    def total(self) -> int:
        """The sum of the terms, bytes."""
        return sum(self.terms.values())

    @property
    def transient(self) -> int:
        """What comes and goes within a step, bytes."""
        passing = (self.gradients, self.copies, self.inputs, self.layer, self.mask, self.head, self.cache)
        return sum(passing) + self.sampling + self.gathered

    @property
    def lower_bound(self) -> bool:
        """Whether something is not counted: the activations of a model, or a trainer, that is not known."""
        return self.peak.startswith("unknown")


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """What the scheduler is told, beside the plan of one node."""

    container: str  # none, docker, podman, apptainer or pyxis
    partition: str | None
    account: str | None
    qos: str | None
    time: str | None
    cpus: int | None  # a node
    extra: tuple[str, ...]
    resume_flag: str | None  # the trainer's, by which a job that is started again goes on


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """Everything that a runner needs; nothing in it is secret."""

    name: str
    mode: str
    method: str
    runner: str
    image: ImageFacts | None
    argv: tuple[str, ...]
    omitted: tuple[Omitted, ...]
    flags_from: str
    mounts: tuple[Mount, ...]
    environment: dict[str, str]
    host_environment: tuple[str, ...]  # names whose values the host gives at launch
    gpus: tuple[Gpu, ...]
    gpu_devices: tuple[str, ...]  # CDI devices; empty where the nvidia driver takes ids
    shm_bytes: int
    memory_bytes: int | None
    network: str | None  # none, bridge or host; None is this machine's own
    network_why: str
    uid: int
    gid: int
    working_dir: str
    output_dir: Path
    writable: tuple[Path, ...]  # folders that are made beforehand, as the job's user
    checkpoint: CheckpointFacts
    data: DataFacts
    steps: StepPlan
    strategy: str  # how the processes share the model: one process, ddp or fsdp2
    strategy_why: str
    precision: str  # mixed: no, fp16 or bf16
    memory: MemoryEstimate | None
    stop_grace: float  # seconds that the job may take to save in, once it is told to stop
    notes: tuple[str, ...] = field(default=())
    nodes: int = 1
    slurm: SlurmJob | None = None
    speed: tuple[str, ...] = ()  # what the trainer chooses for it, and why
    trust: tuple[str, ...] = ()  # what the spec brings along that its reader has to trust

    @property
    def gpu_ids(self) -> tuple[str, ...]:
        """The cards by their ids."""
        return tuple(gpu.id for gpu in self.gpus)

    def for_attempt(self, run_id: str, attempt_dir: Path) -> "LaunchPlan":
        """The same plan with the run's own folder in it."""
        folder = str(attempt_dir)
        return replace(
            self,
            mounts=(*self.mounts, Mount(source=folder, target=folder, read_only=False)),
            environment={**self.environment, ENV_RUN_ID: run_id, ENV_ATTEMPT_DIR: folder},
        )

    def as_json(self) -> dict[str, Any]:
        """What `dimba plan --json` prints and `plan.json` keeps: names of variables, never their values."""
        value = asdict(self)
        environment = value.pop("environment")
        value["env"] = sorted({*environment, *value.pop("host_environment")})
        value["output_dir"] = str(self.output_dir)
        value["writable"] = [str(path) for path in self.writable]
        for inner in ("linked_files", "instead"):
            value["checkpoint"].pop(inner)
        # What the rows say stays out of records.
        if self.data.summary:
            value["data"]["summary"].pop("first")
        if self.data.report:
            value["data"]["report"].pop("shown")
        if self.memory:
            memory = self.memory
            value["memory"] |= {"total": memory.total, "lower_bound": memory.lower_bound}
        return value
