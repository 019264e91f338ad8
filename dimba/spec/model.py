"""JobSpec, version 1: every key, its type and its default."""

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dimba.common.contract import TESTED
from dimba.common.output_store import address_problem
from dimba.common.runners import AUTO, RUNNERS
from dimba.dataset.mixture import source_key
from dimba.objectives.objective import Objective
from dimba.objectives.registry import OBJECTIVES
from dimba.options import table
from dimba.options.kinds import MOST
from dimba.spec.dataset import Data, Dataset
from dimba.spec.part import Line, Part, Place
from dimba.spec.training import Lora, Training

if TYPE_CHECKING:
    Mode = str
    RunnerName = str
else:
    Mode = Literal[tuple(OBJECTIVES)]
    RunnerName = Literal[(AUTO, *RUNNERS)]
Method = Literal["full", "lora", "qlora"]
Scalar = bool | int | float | str

NAME = r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_CLUSTER_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SLURM_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+-]{0,127}")
_SLURM_TIME = re.compile(r"(?:\d{1,6}|\d{1,6}:\d{1,2}(?::\d{1,2})?|\d{1,4}-\d{1,2}(?::\d{1,2}){0,2})")
_SLURM_OPTION = re.compile(r"--([a-z][a-z-]*)(?:=.*)?")
_SLURM_OWN = ("array", "chdir", "comment", "error", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "wrap")


def size_in_bytes(value: int | str) -> int:
    """`8g`, `512 MiB` or a number of bytes, as bytes (powers of 1024)."""
    match = _SIZE.fullmatch(str(value).strip())
    if not match or isinstance(value, bool):
        raise ValueError("expected a size such as 512m or 8g")
    size = float(match[1]) * 1024 ** ("kmgt".index(match[2].lower()) + 1 if match[2] else 0)
    if size >= 2**60:
        raise ValueError("is more memory than any machine has")
    return int(size)


def _size(value: Any) -> Any:
    return value if value is None else size_in_bytes(value)


def _gpus(value: Any) -> Any:
    is_count = isinstance(value, int) and not isinstance(value, bool)
    if value in ("all", "none") or (is_count and value >= 0):
        return value
    if isinstance(value, list) and value and all(type(item) in (int, str) for item in value):
        if len(set(value)) == len(value) and all(isinstance(item, str) or item >= 0 for item in value):
            return value
        raise ValueError("names a GPU twice, or one below 0")
    raise ValueError("expected all, none, a number, or a list of indices or UUIDs")


# A size keeps its bytes when it is written: the plan wants bytes.
Size = Annotated[int | None, BeforeValidator(_size), PlainSerializer(lambda value: value)]
Gpus = Annotated[Literal["all", "none"] | int | list[int | str], BeforeValidator(_gpus)]
Count = Annotated[int, Field(ge=1, le=MOST)]


class Resources(Part):
    """The machine's resources that the job may use."""

    gpus: Gpus = Field("all", description=table.GPUS.help)
    vram_gb: Annotated[float, Field(gt=0, le=MOST)] | None = None
    shm_size: Size = None
    memory: Size = None
    memory_check: bool = Field(True, description="refuse a job that cannot fit the GPU's memory, by the estimate")
    nodes: Count = 1


class Accelerate(Part):
    """The distribution strategy and the precision."""

    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    sequence_parallel: Count | Literal["auto"] = Field(
        "auto", description="GPUs that share each row; auto: as few as one row needs, one if it fits"
    )


class Container(Part):
    """The image, the environment, further mounts and the network."""

    image: Place | None = Field(None, min_length=1)
    base_image: Place | None = Field(None, min_length=1)
    pins: Literal["tested", "latest"] = Field(
        "tested", description="latest: build with the newest releases of the training packages, untested with dimba"
    )
    env: list[Line] = Field(default_factory=list, description="NAME (taken from the host at launch) or NAME=value")
    mounts: list[Place] = Field(default_factory=list, description="/host/folder[:/inside][:ro|rw]")
    network: Literal["auto", "none", "bridge", "host"] = Field(
        "auto", description="auto: none, unless something that the job names is not on this machine"
    )

    @field_validator("pins")
    @classmethod
    def _of_own_image(cls, value: str, info: ValidationInfo) -> str:
        if value != TESTED and info.data.get("image"):
            raise ValueError("is of the image that dimba builds; `container.image` names another")
        return value

    @field_validator("env")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        for item in value:
            if not _ENV_NAME.fullmatch(item.partition("=")[0]):
                raise ValueError(f"`{item.partition('=')[0]}` is not a variable's name; expected NAME or NAME=value")
        return value


def _cluster_name(value: str) -> str:
    if not _CLUSTER_NAME.fullmatch(value):
        raise ValueError(f"`{value}` is no name in a cluster: small letters, digits, dashes and dots, 63 at most")
    return value


ClusterName = Annotated[str, AfterValidator(_cluster_name)]


class Kubernetes(Part):
    """The cluster of `plan --runner kubernetes`; no other command reads it."""

    image: Place | None = Field(None, min_length=1, description="the image that the cluster pulls")
    namespace: ClusterName | None = None
    volumes: dict[ClusterName, Place] = Field(
        default_factory=dict, description="claim: its mount point, at the path that its files have here"
    )
    secret: ClusterName | None = Field(None, description="the Secret whose keys are the variables of container.env")
    queue: ClusterName | None = Field(None, description="Kueue's LocalQueue")
    service_account: ClusterName | None = None
    cpus: Count = Field(4, description="asked for a process")


def _slurm_name(value: str) -> str:
    if not _SLURM_NAME.fullmatch(value):
        raise ValueError(f"`{value}` is no name in Slurm: letters, digits, dashes, dots and underscores")
    return value


def _slurm_time(value: Any) -> Any:
    text = str(value)
    if value is None or (not isinstance(value, bool) and _SLURM_TIME.fullmatch(text)):
        return value if value is None else text
    raise ValueError(f"`{text}` is no time of Slurm's: minutes, 2:30:00 (hours) or 1-12:00:00 (days)")


def _slurm_option(value: str) -> str:
    match = _SLURM_OPTION.fullmatch(value)
    if not match:
        raise ValueError(f"`{value}` is no option of sbatch's: write it as --name or --name=value")
    if match[1] in _SLURM_OWN:
        raise ValueError(f"dimba sets `--{match[1]}` itself")
    return value


SlurmName = Annotated[str, AfterValidator(_slurm_name)]
SlurmTime = Annotated[str | None, BeforeValidator(_slurm_time)]
SlurmOption = Annotated[Line, AfterValidator(_slurm_option)]


class Slurm(Part):
    """How the job is submitted to Slurm; the site file, then the cluster give the defaults."""

    container: Literal["none", "docker", "podman", "apptainer", "pyxis"] | None = None
    image: Place | None = Field(None, min_length=1, description="a reference or a .sif file, as the nodes know it")
    partition: SlurmName | None = None
    account: SlurmName | None = None
    qos: SlurmName | None = None
    time: SlurmTime = Field(None, description="minutes, 2:30:00 (hours) or 1-12:00:00 (days)")
    cpus: Count | None = Field(None, description="asked for a process")
    extra: list[SlurmOption] = Field(default_factory=list, description="further options of sbatch's: --name=value")


class SlurmSite(Slurm):
    """The site file: a user's settings for their cluster."""

    gpus_per_node: Count | None = Field(None, description="the number that `resources.gpus: all` means there")

    def settings(self, asked: Slurm) -> Slurm:
        """The settings of a spec, with the site's for those it lacks; the options of both are joined."""
        given = {name: value for name, value in asked if value not in (None, [])}
        ours = {name: value for name, value in self if name in Slurm.model_fields}
        return Slurm(**{**ours, **given, "extra": [*self.extra, *asked.extra]})


def _no_section(value: Any) -> Any:
    if isinstance(value, dict):
        raise ValueError(f"a flag takes no section of keys: give it as JSON text, '{json.dumps(value, default=str)}'")
    return value


def _store(value: str) -> str:
    if problem := address_problem(value):
        raise ValueError(problem)
    return value


Store = Annotated[Place, AfterValidator(_store)]
TrainerArg = Annotated[Scalar | list[Scalar], BeforeValidator(_no_section)]


class JobSpec(Part):
    """One fine-tuning job, complete: every default is filled in."""

    version: Literal[1]
    name: str = Field("", pattern=NAME)
    mode: Mode = Field(description=table.MODE.help)
    base_checkpoint: Place = Field(min_length=1, description=table.BASE.help)
    base_revision: Line | None = Field(None, min_length=1, description=table.BASE_REVISION.help)
    dataset: Data
    method: Method = Field(description=table.METHOD.help)
    lora: Lora = Lora()
    training: Training = Training()
    output_dir: Place = Field("", description=table.OUTPUT_DIR.help)
    output_store: Store | None = Field(
        None,
        description="s3://bucket/folder or another address: complete checkpoints and the model go there too",
    )
    trainer: Place | None = Field(None, min_length=1)
    trainer_args: dict[str, Annotated[Scalar | list[Scalar], BeforeValidator(_no_section)]] = Field(
        default_factory=dict
    )
    resources: Resources = Resources()
    accelerate: Accelerate = Accelerate()
    container: Container = Container()
    kubernetes: Kubernetes = Kubernetes()
    slurm: Slurm = Slurm()
    runner: RunnerName = AUTO

    @model_validator(mode="after")
    def _complete(self) -> "JobSpec":
        training, objective = self.training, self.objective
        filled = {
            "learning_rate": training.learning_rate or objective.rates.of(self.method),
            "epochs": training.epochs or objective.epochs,
        }
        object.__setattr__(self, "training", training.model_copy(update=filled))
        object.__setattr__(self, "name", self.name or f"{self.mode}-{self.method}")
        object.__setattr__(self, "output_dir", self.output_dir or objective.output_dir(self.method))
        return self

    @property
    def sources(self) -> dict[str, Dataset]:
        """Each data set by its key."""
        if isinstance(self.dataset, list):
            return {source_key(number): each for number, each in enumerate(self.dataset)}
        return {"dataset": self.dataset}

    @property
    def objective(self) -> Objective[Any]:
        """The objective that `mode` names."""
        return OBJECTIVES[self.mode]
