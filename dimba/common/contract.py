"""Paths and names that both sides of the container wall share. Standard library only."""

import json
import os
import re
from pathlib import Path
from typing import Any

# The repository in the image.
IMAGE_ROOT = "/opt/dimba"
# The home folder in the image: writable by any uid, because the job has its caller's.
IMAGE_HOME = "/home/dimba"

# Environment of a job.
ENV_RUN_ID = "DIMBA_RUN_ID"
ENV_OUTPUT_DIR = "DIMBA_OUTPUT_DIR"
ENV_ANYWAY = "DIMBA_RESUME_ANYWAY"  # resume from a checkpoint of other data or another batch
ENV_ATTEMPT_DIR = "DIMBA_ATTEMPT_DIR"  # the folder of log.txt and metrics.jsonl of this attempt
ENV_GPU_COUNT = "DIMBA_GPU_COUNT"  # the number of GPUs that must work in the container; 0 on the CPU
ENV_ALLOW_CPU = "DIMBA_ALLOW_CPU"  # train on the CPU if they do not, and report it
ENV_ON_CPU_INSTEAD = "DIMBA_ON_CPU_INSTEAD"  # set if the job trains on the CPU because its GPUs do not work
ENV_SECRETS_ON_STDIN = "DIMBA_SECRETS_ON_STDIN"  # stdin has one JSON line of names and values
ENV_TIME_LIMIT = "DIMBA_TIME_LIMIT"  # seconds after which the job saves and stops
ENV_MEMORY = "DIMBA_MEMORY_ESTIMATE"  # bytes per process, to compare with the measured peak
ENV_STOP_GRACE = "DIMBA_STOP_GRACE"  # seconds for saving after a signal to stop
ENV_KILL_HUNG = "DIMBA_KILL_HUNG"  # end a job that makes no more steps
ENV_HANG_SECONDS = "DIMBA_HANG_SECONDS"  # the shortest time without a step that counts as a hang
ENV_WORLD_SIZE = "DIMBA_WORLD_SIZE"  # the number of ranks that must start
ENV_SECRET_NAMES = "DIMBA_SECRET_NAMES"  # noqa: S105  # variables whose values the log masks
ENV_LOG_ON_STDOUT = "DIMBA_LOG_ON_STDOUT"  # the process that started the job writes its log from stdout
ENV_RANK_DIR = "DIMBA_RANK_DIR"  # the folder in which each rank records its pid and its end
ENV_SAMPLER = "DIMBA_SAMPLER"  # the command of the server that samples on GPUs of its own, as a JSON list
ENV_SAMPLER_GPUS = "DIMBA_SAMPLER_GPUS"  # how many of the job's last GPUs are the server's
ENV_SAMPLER_URL = "DIMBA_SAMPLER_URL"  # the address of that server, for the ranks
ENV_STORE = "DIMBA_STORE"  # the address of the run's store, which gets its checkpoints
ENV_STORE_WRITER = "DIMBA_STORE_WRITER"  # the name by which the store knows the machine that writes the run
# Of a job on several machines: their number, the rank of this one, and the address of the first.
ENV_NODES = "DIMBA_NODES"
ENV_NODE_RANK = "DIMBA_NODE_RANK"
ENV_MAIN_ADDRESS = "DIMBA_MAIN_ADDRESS"
ENV_MAIN_PORT = "DIMBA_MAIN_PORT"
ENV_BACKEND = "DIMBA_BACKEND"  # that connects the ranks in place of NCCL: gloo also connects two on one GPU

# Environment of the launcher.
ENV_RUNS = "DIMBA_RUNS"
ENV_BASE_IMAGE = "DIMBA_BASE_IMAGE"
ENV_LEASES = "DIMBA_LEASES"  # the folder of GPU leases, shared by all users
ENV_GPU_PATH = "DIMBA_GPU_PATH"  # cdi or nvidia, for machines that have both and one is broken
ENV_CA_CERT = "DIMBA_CA_CERT"  # a CA bundle of the company's, built into the image
ENV_WHEELS = "DIMBA_WHEELS"  # a folder of wheels that the build prefers

# Environment of the image: the releases that it has.
ENV_PINS = "DIMBA_PINS"
TESTED, LATEST = "tested", "latest"  # the versions that dimba is tested with as a set, and the newest releases

# Labels of a container.
LABEL_RUN_ID = "dimba.run-id"
LABEL_ATTEMPT = "dimba.attempt"
LABEL_GPUS = "dimba.gpus"  # the GPUs that it holds
LABEL_IMAGE_KEY = "dimba.image-key"
LABEL_VERSIONS = "dimba.versions"  # JSON: the training packages of an image with the newest releases
LABEL_RESOLVED = "dimba.resolved"  # the day on which they were the newest

ATTEND = "_attend"  # the hidden command of a detached run's supervisor

# Files of a run and of an output folder.
SPEC_FILE = "job.yaml"
PLAN_FILE = "plan.json"
RUN_FILE = "run.json"
SWEEP_FILE = "sweep.json"  # of the folder of a sweep, beside those of its runs
DIFF_FILE = "changes.patch"  # the repository's changes, if they are too long for the record
LOG_FILE = "log.txt"
METRICS_FILE = "metrics.jsonl"
DATA_FILE = "data.json"  # beside it: the report on the tokenised data, written by our trainer before its first step
SAMPLES_FILE = "samples.jsonl"  # beside it: sampled completions with their rewards
EVAL_FILE = "eval.json"  # in the folder of a model: what `dimba eval` has found
LEARNING_FILE = "learning.json"  # beside it: whether the run learned anything, written by our trainer at its end
LIKELIEST_FILE = "likeliest.json"  # beside it: tokens that the trained model in memory continues a few prompts with
EXIT_FILE = "exit.json"  # how the job ended, written by the entry point in the attempt's folder
WORD_FILE = "word.json"  # how our trainer ended, written by itself there and in the ranks' folder
OUTPUT_FILE = "dimba.json"
REPORT_FILE = "report.html"  # in the run's folder; of several runs in the current folder
EXPORT_FILE = "export.json"  # in an export: what it is made of, and the numbers of its proof
OWNER_FILE = "dimba-owner.json"  # in the output folder: who writes there now
COMPLETE_FILE = "dimba-whole.json"  # in a checkpoint: the list of its files, which marks it complete
SAVING_FOLDER = ".saving"  # in the output folder: checkpoints that are being written

LINES = "--lines"  # for the preview of data: print text, as the trainer follows
PREPARE = "--prepare"  # for the entry point: tokenise the data before the ranks start

# Statuses of a run.
PENDING = ("queued", "building", "starting")  # the run is on record, and its job does not run yet
ACTIVE = (*PENDING, "running", "stopping")
# Exit reasons of a run that was asked to stop: by a user, as one of the worst of its sweep, or because the first runs
# of its sweep failed alike.
STOPPED_BY_USER, STOPPED_BY_SWEEP, SWEEP_FAILED = "stopped_by_user", "stopped_by_sweep", "sweep_failed"

# Exit statuses of a job with a meaning for the launcher; it passes on the trainer's others.
REFUSED = "refused"  # the reason of a trainer that ended with an error before it trained
EXIT_NO_GPU = 83  # together with the reason NO_GPU, as a trainer may use the status too
NO_GPU = "no_gpu"
STOP_MARGIN = 60  # seconds beyond a job's own grace, after which it is killed from outside
EXIT_STOPPED = 143  # 128 + SIGTERM: stopped after a signal, with a checkpoint saved

_SECRET_NAME = re.compile(
    r"(?:KEY|TOKEN|PASSWORD|PASSWD|PASSPHRASE)(?=_|\d*$)|SECRET|CREDENTIAL|API_?KEYS", re.IGNORECASE
)
SHORTEST_SECRET = 8  # characters: shorter values occur in ordinary words and cannot be masked

# For a tokenizer without a chat template, such as a base model's; saved with the result, for use as trained.
DEFAULT_CHAT_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "### {{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)

# The trainers' flag that skips unusable rows.
SKIP_BAD_ROWS = "skip-bad-rows"

# The hint for a model that needs its own code, on both sides.
RUN_ITS_CODE = (
    "if you have read it, `--trust-remote-code` runs it (`trainer_args: {trust-remote-code: true}`; `dimba data` wants "
    "--trust-spec too); where transformers has this model itself, take `auto_map` out of the configuration instead"
)

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".arrow", ".txt")
_PATTERN = re.compile(r"[*?[]")
PATH_STARTS = ("./", "../", "/", "~", "data/", "checkpoints/")
TRAINED_OUTPUT = ("config.json", "adapter_config.json", "*.safetensors", "checkpoint-*")


def is_path(value: str) -> bool:
    """Whether `value` is a path or a pattern rather than a Hub id: it exists, or is written as one."""
    return looks_like_path(value) or os.path.exists(value)


def looks_like_path(value: str) -> bool:
    """Whether `value` is written as a path; does not read the disk."""
    written_as_path = value.startswith(PATH_STARTS) or value.removesuffix(".gz").endswith(DATA_SUFFIXES)
    return written_as_path or is_pattern(value)


def is_pattern(value: str) -> bool:
    """Whether `value` is written as a pattern of paths, such as `shards/*.jsonl`."""
    return bool(_PATTERN.search(value))


def absolute(path: str | Path, folder: Path | None = None) -> Path:
    """`path` with `~` and `..` resolved against `folder` (default: the current one), without following links."""
    return Path(os.path.normpath((folder or Path.cwd()) / os.path.expanduser(path)))


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if the file is missing, incomplete or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def is_secret_name(variable: str) -> bool:
    """Whether a variable of this name holds a secret: WANDB_API_KEY does, TOKENIZERS_PARALLELISM does not."""
    return bool(_SECRET_NAME.search(variable))


def cache_home() -> Path:
    """The folder of dimba's own cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dimba"


def trained_files(folder: Path) -> list[Path]:
    """The files in `folder` that belong to a model or its checkpoints; empty if the folder does not exist."""
    return sorted(path for pattern in TRAINED_OUTPUT for path in folder.glob(pattern))
