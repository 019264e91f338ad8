"""HostFacts: everything that the plan needs to know about the machine and what the spec names."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dimba.common.checkpoint import Positions, Quantization, Refusal, TokenCounts
from dimba.common.checkpoint.releases import LibraryType
from dimba.common.contract import TESTED
from dimba.common.owner import Use
from dimba.common.units import millions
from dimba.dataset.mixture import rows_per_epoch
from dimba.dataset.summary import DataSummary
from dimba.dataset.token_report import DataReport
from dimba.objectives.families import CAUSAL
from dimba.objectives.family import Family, Lifted
from dimba.spec import SlurmSite


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU; a field that `nvidia-smi` did not report is None."""

    index: int
    uuid: str | None = None
    name: str | None = None
    memory_mib: int | None = None
    free_mib: int | None = None
    compute_capability: float | None = None
    driver: str | None = None

    @property
    def id(self) -> str:
        """The UUID, or the index if the UUID is unknown."""
        return self.uuid or str(self.index)


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """The GPUs that work; without any, `problem` is the reason."""

    gpus: tuple[Gpu, ...] = ()
    source: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """The container engine, as it describes itself."""

    reachable: bool
    problem: str = ""
    address: str = ""
    version: str = ""
    local: bool = True
    rootless: bool = False
    cdi_devices: frozenset[str] = frozenset()
    proxies: frozenset[str] = frozenset()  # variables that the client's configuration sets in every container


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """The image that the job would run in."""

    reference: str
    key: str | None  # None for an image that dimba does not build
    base: str | None
    base_digest: str | None  # None until the base image is on this machine
    id: str | None  # None until it is built
    extra: str = ""  # the Dockerfile's `WITH`
    pins: str = TESTED
    versions: Mapping[str, str] = field(default_factory=dict)  # of the training packages, for the pins `latest`
    resolved: str = ""  # the day on which those were the newest; empty until it is built


@dataclass(frozen=True, kw_only=True)
class MixerShape:
    """The dimensions of the two Mamba-2 mixers of a block, each of them."""

    inner: int
    states: int  # numbers of a state for each number of `inner`
    heads: int
    projected: int  # what in_proj gives for a token
    channels: int  # those of the convolution


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The dimensions of a model that determine the size of its activations."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    plain: bool = False  # the MLP has two matrices, no gate, and an activation that is one kernel
    joined: bool = False  # the MLP's gate and up projections are one matrix
    vocabulary: int  # rows of the embedding
    tied: bool  # the head shares the embedding's weights
    experts: int = 0
    active_experts: int = 0  # per token
    expert_intermediate: int = 0
    block_parameters: int  # per layer, on average
    expert_parameters: int = 0  # per layer, included in block_parameters
    norms: int = 2  # per layer, over the hidden size
    layer_norms: bool = False  # with a bias: autocast computes them in float32 and returns float32
    head_norms: bool = False  # queries and keys have norms too
    mixers: MixerShape | None = None  # in place of attention; the fields about heads are those of a mixer


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """The base checkpoint: the facts of a local folder, or only the reference of a Hub id."""

    reference: str
    local: bool
    revision: str | None = None  # that the spec names, of a base on the Hub
    problem: str = ""
    hint: str = ""
    architecture: str | None = None
    model_type: str = ""  # of the model that is loaded
    parameters: int | None = None
    weight_bytes: int | None = None
    linear_sides: Mapping[str, int] | None = None  # in + out of each matrix that LoRA adapts, by the module's name
    linear_inputs: Mapping[str, int] = field(default_factory=dict)  # in of each, but of experts
    modules: Mapping[str, int] = field(default_factory=dict)  # parameters by the module's name
    linear_parameters: int | None = None  # of the same matrices, which Q-LoRA quantises
    shape: ModelShape | None = None  # None if config.json lacks a number or contradicts the weights
    dtype: str | None = None  # as the safetensors headers name it: F32, BF16
    context_length: int | None = None  # tokens
    refusal: Refusal | None = None  # of dimba's own trainers, whatever the method
    quantization: Quantization | None = None
    positions: Positions | None = None
    tokens: TokenCounts | None = None
    tokenizer_needs: tuple[str, ...] = ()  # packages that read it
    absent_tokens: tuple[str, ...] = ()  # of those that the spec names, the ones that the tokenizer does not have
    sees: tuple[str, ...] = ()  # what a multimodal model reads beside text
    text_alone: bool = False  # of a multimodal model, the text part alone is loaded
    doubt: str = ""  # why transformers may not load it
    library_type: LibraryType | None = None  # None where the checkpoint has code of its own
    family: Family = CAUSAL
    lifted: Lifted | None = None  # a refusal that an option of the trainer lifts
    has_chat_template: bool | None = None
    shows_date: bool = False  # its chat template asks the clock
    own_code: str = ""  # the name of its file that requires code from the checkpoint or the Hub
    instead: Path | None = None  # a nearby folder that holds a complete checkpoint
    linked_files: tuple[tuple[Path, Path], ...] = ()  # (target of a link as seen from the folder, the real file)


def described(facts: CheckpointFacts) -> str:
    """The facts of a checkpoint in one line."""
    parts = [
        facts.architecture or "unknown architecture",
        f"{millions(facts.parameters)} parameters" if facts.parameters else "",
        facts.quantization.label if facts.quantization else facts.dtype or "",
        f"context {facts.context_length:,}" if facts.context_length else "",
        {True: "chat template", False: "no chat template", None: ""}[facts.has_chat_template],
    ]
    return ", ".join(part for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """The data: the facts of local files, or only the reference of a Hub id."""

    reference: str  # a file, a folder or a pattern on this machine, or a Hub id; of a list, all of them
    local: bool  # of a list: all of them
    revision: str | None = None  # that the spec names, of data on the Hub
    files: tuple[Path, ...] = ()  # that hold the rows, in the order in which they are read
    places: tuple[Path, ...] = ()  # the files and folders that a container needs to have all of `files`
    linked_files: tuple[tuple[Path, Path], ...] = ()  # as in CheckpointFacts
    notes: tuple[str, ...] = ()  # on files that are not read
    problem: str = ""
    hint: str = ""
    key: str = "dataset"  # the spec's key that `problem` is about
    summary: DataSummary | None = None
    report: DataReport | None = None  # None until the rows are tokenised
    sources: tuple["DataFacts", ...] = ()  # of a list of data sets, whose facts the other fields combine
    weight: float = 1.0  # in such a list
    streamed: bool = False  # `summary` and `report` are of the first rows

    @property
    def hub_ids(self) -> tuple[str, ...]:
        """The data sets on the Hub."""
        return tuple(each.reference for each in self.on_hub)

    @property
    def on_hub(self) -> tuple["DataFacts", ...]:
        """The facts of each data set on the Hub."""
        return tuple(each for each in self.sources or (self,) if not each.local)

    @property
    def rows_per_epoch(self) -> int | None:
        """Training rows of an epoch; of a list, each as often as its weight says. None until all rows are read."""
        if self.streamed:
            return None
        if not self.sources:
            return self.summary.usable if self.summary else None
        counts = [rows_per_epoch(each.weight, each.summary.usable) for each in self.sources if each.summary]
        return sum(counts) if len(counts) == len(self.sources) else None


@dataclass(frozen=True, kw_only=True)
class TrainerFacts:
    """The trainer: its path on this machine and in the image, and the flags that it defines."""

    path: Path | None  # on this machine; None if no trainer was found
    copy: Path | None = None  # the file that was found, if it is a copy of dimba's own trainer at `path`
    problem: str = ""
    hint: str = ""
    in_image: str | None = None  # its path in the image; None if it has to be mounted
    flags: frozenset[str] = frozenset()
    flags_from: str = ""  # "--help" or "source"
    other_mode: bool = False  # it belongs to the other mode


@dataclass(frozen=True, kw_only=True)
class OutputFacts:
    """The output folder, and the user and group that will own the files in it."""

    path: Path
    uid: int
    gid: int
    home: Path
    problem: str = ""
    hint: str = ""
    user_error: bool = False  # the spec is wrong rather than the machine
    holds: tuple[str, ...] = ()  # names of trained files already there
    run_id: str | None = None  # of the run whose model it holds
    use: Use | None = None  # by its present owner


@dataclass(frozen=True)
class TrustRequirement:
    """A part of a spec that executes foreign code or exposes this machine, so that launching it requires trust."""

    key: str  # of the spec
    what: str
    grave: bool = False  # gives control over the entire machine

    def __str__(self) -> str:
        return f"{self.key}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class NamedPath:
    """A path that a spec names, on this machine."""

    path: Path
    exists: bool
    why_not_read: str  # the reason why a job may not read it; empty if it may
    names: frozenset[str] | None = None  # that a Python file defines, where that is known without running it


@dataclass(frozen=True, kw_only=True)
class ClusterNodes:
    """The identical nodes of the cluster that runs a job; this machine need not be one of them."""

    gpu: GpuFacts  # per node
    cores: int  # per node
    slurm: SlurmSite | None = None


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """Facts about the machine and about everything that one spec names."""

    folder: Path  # the folder that dimba is run in: relative paths start here
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
    unreadable: tuple[Path, ...] = ()  # files that the job's user may not read
    local_proxies: frozenset[str] = frozenset()  # variables that name a proxy on this machine's loopback
    packages: frozenset[str] = frozenset()  # of those that the base or the job needs, what this Python has
    short_secrets: frozenset[str] = frozenset()  # variables whose values are too short to be masked in a log
    slurm: SlurmSite | None = None  # the user's description of the cluster; None if Slurm has no part in the job
    missing_packages: tuple[str, ...] = ()  # training packages that this machine's Python lacks
    install_command: str = ""  # installs them
    transformers: str = ""  # its release in this machine's Python; empty without one
    pip_install: str = ""  # the command that installs packages for this machine's Python, without their names
    named: Mapping[str, NamedPath] = field(default_factory=dict)  # files and mounts, by their text in the spec
    store_problem: str = ""  # why the job may not write in the folder that is its store
    trust_requirements: tuple[TrustRequirement, ...] = ()  # parts of the spec that require trust

    def on(self, nodes: ClusterNodes) -> "HostFacts":
        """The facts of this machine's files, with the GPUs and cores of a cluster's nodes."""
        return replace(self, gpu=nodes.gpu, cores=nodes.cores, slurm=nodes.slurm)
