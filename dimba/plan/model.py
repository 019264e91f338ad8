"""LaunchPlan: one value that `plan` prints and `launch` executes."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dimba.common.contract import ENV_ATTEMPT_DIR, ENV_OUTPUT_DIR, ENV_RUN_ID, ENV_STORE, STOP_MARGIN
from dimba.common.output_store import AT_STOP
from dimba.host.facts import CheckpointFacts, DataFacts, Gpu, ImageFacts


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A host path, mounted at the same path inside."""

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
    """Batch arithmetic of the job; None for numbers that depend on rows which only the trainer reads."""

    processes: int
    batch_size: int  # rows per process and forward pass
    effective_batch: int  # the same for any number of processes
    accumulation: int  # batches per process and optimiser step; GRPO raises it to complete groups
    completions: int | None  # per prompt, with GRPO
    per_epoch: int | None
    total: int | None


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes of GPU memory of one process at the peak of a step; `peak` names that moment."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    buckets: int = 0  # DDP's copy of the gradients
    gathered: int = 0  # complete layers of a sharded model
    reference: int = 0
    reward: int = 0
    copies: int = 0  # of weights, in the type that autocast computes in
    inputs: int = 0  # inputs of layers for activation checkpointing; without it, all saved activations
    layer: int = 0  # one recomputed or last layer, and its gradients
    mask: int = 0
    head: int = 0  # tiles of logits, gradients of the head and the embedding
    cache: int = 0  # keys and values of completions that are sampled
    sampling: int = 0  # other memory of sampling
    vllm: int = 0  # weights, cache and workspace of vLLM while it samples; CUDA graphs while it sleeps
    fragments: int = 0
    context: int = 0
    offloaded: int = 0  # in pinned host memory, which the total leaves out
    peak: str = ""  # empty: only model states were counted
    model_states: int  # weights, adapter, gradients and optimiser, at the peak or not

    @property
    def terms(self) -> dict[str, int]:
        """Every term by its name."""
        named = asdict(self).items()
        beside = ("model_states", "offloaded")
        return {name: value for name, value in named if isinstance(value, int) and name not in beside}

    @property
    def total(self) -> int:
        """The sum of the terms, bytes."""
        return sum(self.terms.values())

    @property
    def transient(self) -> int:
        """Bytes that are allocated and freed within a step."""
        passing = (self.gradients, self.copies, self.inputs, self.layer, self.mask, self.head, self.cache)
        return sum(passing) + self.sampling + self.gathered

    @property
    def lower_bound(self) -> bool:
        """Whether activations are missing, as the model or the trainer is not known."""
        return self.peak.startswith("unknown")


@dataclass(frozen=True, kw_only=True)
class ActivationPlan:
    """Activation checkpointing: the first `layers` `of` all recompute their activations; `text` is the choice in words.

    Numbers that are not known before the job are None. With `offload`, the layers' inputs wait in host memory.
    """

    layers: int | None
    of: int | None
    offload: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """The scheduler's settings, beside the plan of one node."""

    container: str  # none, docker, podman, apptainer or pyxis
    partition: str | None
    account: str | None
    qos: str | None
    time: str | None
    cpus: int | None  # per node
    extra: tuple[str, ...]
    resume_flag: str | None  # the trainer's flag that resumes a requeued job


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
    host_environment: tuple[str, ...]  # names of variables that the host sets at launch
    gpus: tuple[Gpu, ...]
    gpu_devices: tuple[str, ...]  # CDI devices; empty if the nvidia driver takes ids
    shm_bytes: int
    memory_bytes: int | None
    network: str | None  # none, bridge or host; None: the machine's own
    network_why: str
    uid: int
    gid: int
    working_dir: str
    output_dir: Path
    writable: tuple[Path, ...]  # folders that are created before the start, owned by the job's user
    checkpoint: CheckpointFacts
    data: DataFacts
    steps: StepPlan
    strategy: str  # how the processes share the model: one process, ddp or fsdp2
    strategy_why: str
    precision: str  # mixed: no, fp16 or bf16
    memory: MemoryEstimate | None
    activations: ActivationPlan | None  # None for custom trainers
    stop_grace: float  # seconds for saving, once the job is asked to stop
    notes: tuple[str, ...] = field(default=())
    nodes: int = 1
    slurm: SlurmJob | None = None
    speed: tuple[str, ...] = ()  # choices of the trainer, with reasons
    trust: tuple[str, ...] = ()  # the trust requirements of the spec

    @property
    def gpu_ids(self) -> tuple[str, ...]:
        """The ids of the GPUs."""
        return tuple(gpu.id for gpu in self.gpus)

    @property
    def start_notes(self) -> tuple[str, ...]:
        """The notes, and the activation checkpointing on GPUs, which costs memory or time."""
        text = f"activation checkpointing: {self.activations.text}" if self.activations and self.gpus else ""
        return (*self.notes, text) if text else self.notes

    @property
    def stop_seconds(self) -> int:
        """Seconds after a request to stop that the job may take: to save, and to send the checkpoint to its store."""
        return int(self.stop_grace) + STOP_MARGIN + (int(AT_STOP) if ENV_STORE in self.environment else 0)

    def for_attempt(self, run_id: str, attempt_dir: Path) -> "LaunchPlan":
        """The same plan with the run's own folder in it."""
        folder, run = str(attempt_dir), str(attempt_dir.parents[1])
        record = Mount(source=run, target=run, read_only=True)  # the upload sends it
        return replace(
            self,
            mounts=(
                *self.mounts,
                *((record,) if ENV_STORE in self.environment else ()),
                Mount(source=folder, target=folder, read_only=False),
            ),
            environment={
                **self.environment,
                ENV_RUN_ID: run_id,
                ENV_ATTEMPT_DIR: folder,
                ENV_OUTPUT_DIR: str(self.output_dir),
            },
        )

    def as_json(self) -> dict[str, Any]:
        """The value that `dimba plan --json` prints and `plan.json` holds: names of variables, never their values."""
        value = asdict(self)
        environment = value.pop("environment")
        value["env"] = sorted({*environment, *value.pop("host_environment")})
        value["output_dir"] = str(self.output_dir)
        value["writable"] = [str(path) for path in self.writable]
        for inner in ("linked_files", "instead", "refusal", "lifted", "linear_sides", "modules"):
            value["checkpoint"].pop(inner)
        value["checkpoint"]["family"] = self.checkpoint.family.label
        value["data"] = _data_json(self.data, value["data"])
        if self.memory:
            memory = self.memory
            value["memory"] |= {"total": memory.total, "lower_bound": memory.lower_bound}
        return value


def _data_json(facts: DataFacts, value: dict[str, Any]) -> dict[str, Any]:
    """`value`, the fields of the facts, without single files and without rows, which records do not contain."""
    for inner in ("files", "places", "linked_files"):
        value.pop(inner)
    value["file_count"] = len(facts.files)
    if facts.summary:
        value["summary"].pop("first")
    if facts.report:
        value["report"].pop("shown")
    value["sources"] = [_data_json(*each) for each in zip(facts.sources, value["sources"], strict=True)]
    return value
