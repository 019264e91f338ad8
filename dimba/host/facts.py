"""HostFacts: everything that the plan needs to know, found out beforehand."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dimba.dataset.summary import DataSummary
from dimba.dataset.token_report import DataReport
from dimba.spec import SlurmSite


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One card; what `nvidia-smi` did not tell is None."""

    index: int
    uuid: str | None = None
    name: str | None = None
    memory_mib: int | None = None
    free_mib: int | None = None
    compute_capability: float | None = None
    driver: str | None = None

    @property
    def id(self) -> str:
        """By UUID, by index where that is not known."""
        return self.uuid or str(self.index)


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """The cards that work, and why there are none."""

    gpus: tuple[Gpu, ...] = ()
    source: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """The container engine, as far as it answers."""

    reachable: bool
    problem: str = ""
    address: str = ""
    version: str = ""
    local: bool = True
    rootless: bool = False
    cdi_devices: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """The image that the job would run in."""

    reference: str
    key: str | None  # None for an image that somebody else built
    base: str | None
    base_digest: str | None  # None where the base image is not on this machine yet
    id: str | None  # None where it is not built yet
    extra: str = ""  # what it has beside what trains, the Dockerfile's `WITH`


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Numbers of a transformer that its activations follow from."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    plain: bool = False  # an MLP of two matrices, without a gate, and an activation that is one kernel
    joined: bool = False  # an MLP whose gate and up are one matrix
    vocabulary: int  # rows of the embedding
    tied: bool  # the head is the embedding
    experts: int = 0
    active_experts: int = 0  # of a token
    expert_intermediate: int = 0
    block_parameters: int  # of one layer, on average
    expert_parameters: int = 0  # of them, in experts
    norms: int = 2  # in a layer, over the hidden size
    layer_norms: bool = False  # with a bias: autocast computes them in float32, and gives float32
    head_norms: bool = False  # of queries and keys too


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """The base checkpoint: a folder that was looked into, or a Hub id that was not."""

    reference: str
    local: bool
    problem: str = ""
    hint: str = ""
    architecture: str | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    linear_sides: int | None = None  # sum of in + out over the matrices that an adapter sits on
    linear_parameters: int | None = None  # of the same matrices, which is what Q-LoRA quantises
    shape: ModelShape | None = None  # None where config.json does not tell, or the weights are others
    dtype: str | None = None  # as the safetensors headers name it: F32, BF16
    context_length: int | None = None  # tokens
    has_chat_template: bool | None = None
    own_code: str = ""  # its file that asks for code that lies beside it, or on the Hub
    instead: Path | None = None  # a folder close by that would do
    linked_files: tuple[tuple[Path, Path], ...] = ()  # (where a link leads as seen from the folder, the real file)


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """The data: a file that was read, or a Hub id that was not."""

    reference: str
    local: bool
    problem: str = ""
    hint: str = ""
    key: str = "dataset"  # the spec's key that `problem` is about
    summary: DataSummary | None = None
    report: DataReport | None = None  # once they were tokenised


@dataclass(frozen=True, kw_only=True)
class TrainerFacts:
    """The trainer: where it lies, where it will run, and the flags that it defines."""

    path: Path | None  # on this machine; None where none was found
    problem: str = ""
    hint: str = ""
    in_image: str | None = None  # its path in the image; None where it has to be mounted
    flags: frozenset[str] = frozenset()
    flags_from: str = ""  # "--help" or "source"
    other_mode: bool = False  # it is the other mode's


@dataclass(frozen=True, kw_only=True)
class OutputFacts:
    """The output folder and whoever will own what is written there."""

    path: Path
    uid: int
    gid: int
    home: Path
    problem: str = ""
    hint: str = ""
    user_error: bool = False  # the spec is wrong rather than the machine
    holds: tuple[str, ...] = ()
    run_id: str | None = None
    run_active: bool = False  # as far as its record knows


@dataclass(frozen=True)
class Harm:
    """What of a spec could harm whoever launches it for a stranger, and under which key it stands."""

    key: str
    what: str
    grave: bool = False  # gives the whole machine away

    def __str__(self) -> str:
        return f"{self.key}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class NamedPath:
    """A path that a spec names, on this machine."""

    path: Path
    exists: bool
    why_not_read: str  # empty where a job may read from it


@dataclass(frozen=True, kw_only=True)
class ClusterNodes:
    """The machines of a cluster that a job goes to, each alike; this one need have no part in them."""

    gpu: GpuFacts  # of a node
    cores: int  # of a node
    slurm: SlurmSite | None = None


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """One look at the machine, for one spec."""

    folder: Path  # where dimba is run: relative paths start here
    runs: Path
    project: Path
    python: str
    cores: int
    cache: Path  # the Hugging Face cache
    environment: frozenset[str]  # names only
    gpu: GpuFacts
    engine: EngineFacts
    checkpoint: CheckpointFacts
    data: DataFacts
    trainer: TrainerFacts
    output: OutputFacts
    image: ImageFacts | None = None
    unreadable: tuple[Path, ...] = ()  # what the job's user may not read
    short_secrets: frozenset[str] = frozenset()  # names whose values are too short to be masked in a log
    slurm: SlurmSite | None = None  # what the user's file says of the cluster; None where Slurm has no part in it
    named: Mapping[str, NamedPath] = field(default_factory=dict)  # files and mounts, by their text in the spec
    harms: tuple[Harm, ...] = ()  # what the spec brings along that its reader has to trust

    def on(self, nodes: ClusterNodes) -> "HostFacts":
        """This machine's files on a cluster's nodes."""
        return replace(self, gpu=nodes.gpu, cores=nodes.cores, slurm=nodes.slurm)
