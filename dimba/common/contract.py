"""Names that both sides of the container wall share. Standard library only."""

import json
import os
import re
from pathlib import Path
from typing import Any

# Where the repository lies in the image.
IMAGE_ROOT = "/opt/dimba"
# The image's home folder: writable by any uid, as the job runs as its caller's.
IMAGE_HOME = "/home/dimba"

# Environment of a job.
ENV_RUN_ID = "DIMBA_RUN_ID"
ENV_ATTEMPT_DIR = "DIMBA_ATTEMPT_DIR"  # where log.txt and metrics.jsonl of this attempt go
ENV_GPU_COUNT = "DIMBA_GPU_COUNT"  # how many GPUs must work inside; 0 on the CPU
ENV_ALLOW_CPU = "DIMBA_ALLOW_CPU"  # go on without them, and say so
ENV_ON_CPU_INSTEAD = "DIMBA_ON_CPU_INSTEAD"  # set where a job trains on the CPU because its GPUs do not work
ENV_SECRETS_ON_STDIN = "DIMBA_SECRETS_ON_STDIN"  # one JSON line of names and values waits on stdin
ENV_TIME_LIMIT = "DIMBA_TIME_LIMIT"  # seconds after which the job saves and stops
ENV_MEMORY = "DIMBA_MEMORY_ESTIMATE"  # bytes of one process, to be held against what is measured
ENV_STOP_GRACE = "DIMBA_STOP_GRACE"  # seconds that it may take to save in, once told to stop
ENV_KILL_HUNG = "DIMBA_KILL_HUNG"  # end a job whose steps no longer come
ENV_HANG_SECONDS = "DIMBA_HANG_SECONDS"  # the least time without a step that counts as a hang
ENV_WORLD_SIZE = "DIMBA_WORLD_SIZE"  # how many ranks there must be
ENV_SECRET_NAMES = "DIMBA_SECRET_NAMES"  # noqa: S105  # variables of the environment that are masked in the log
ENV_LOG_ON_STDOUT = "DIMBA_LOG_ON_STDOUT"  # whoever started the job keeps what it says as its log
ENV_RANK_DIR = "DIMBA_RANK_DIR"  # where each rank notes its pid and how it ended
# Of a job on several machines: how many there are, which of them this is, and where the first one waits.
ENV_NODES = "DIMBA_NODES"
ENV_NODE_RANK = "DIMBA_NODE_RANK"
ENV_MAIN_ADDRESS = "DIMBA_MAIN_ADDRESS"
ENV_MAIN_PORT = "DIMBA_MAIN_PORT"

# Environment of the launcher.
ENV_RUNS = "DIMBA_RUNS"
ENV_BASE_IMAGE = "DIMBA_BASE_IMAGE"
ENV_LEASES = "DIMBA_LEASES"  # the folder in which GPUs are given out, the same for every user
ENV_GPU_PATH = "DIMBA_GPU_PATH"  # cdi or nvidia, where both are there and one is broken
ENV_CA_CERT = "DIMBA_CA_CERT"  # a company's CA bundle, built into the image
ENV_WHEELS = "DIMBA_WHEELS"  # a folder of wheels that the build prefers

# Labels of a container.
LABEL_RUN_ID = "dimba.run-id"
LABEL_ATTEMPT = "dimba.attempt"
LABEL_GPUS = "dimba.gpus"  # which cards it holds
LABEL_IMAGE_KEY = "dimba.image-key"

ATTEND = "_attend"  # the command of a process beside a detached run

# Files of a run and of an output folder.
SPEC_FILE = "job.yaml"
PLAN_FILE = "plan.json"
RUN_FILE = "run.json"
DIFF_FILE = "changes.patch"  # where the repository's changes are too long for the record
LOG_FILE = "log.txt"
METRICS_FILE = "metrics.jsonl"
EXIT_FILE = "exit.json"  # the entry point's last word, in the attempt's folder
WORD_FILE = "word.json"  # what a trainer of ours says of its own end, there and beside the ranks' notes
OUTPUT_FILE = "dimba.json"
WHOLE_FILE = "dimba-whole.json"  # in a checkpoint: everything that belongs to it
SAVING_FOLDER = ".saving"  # in the output folder: what is being written

LINES = "--lines"  # for the preview of data: the trainer follows, and lines for people are printed
PREPARE = "--prepare"  # for the entry point: tokenise the data before the ranks start

# Exit statuses of a job that the launcher understands; the trainer's own pass through as they are.
REFUSED = "refused"  # a trainer's last word, with a message and a hint: it did not begin to train
EXIT_NO_GPU = 83  # with NO_GPU as its last word; a trainer may end with any status
NO_GPU = "no_gpu"
STOP_MARGIN = 60  # seconds beyond a job's own grace, before it is killed from outside
EXIT_STOPPED = 143  # 128 + SIGTERM: told to stop, saved and went

_SECRET_NAME = re.compile(
    r"(?:KEY|TOKEN|PASSWORD|PASSWD|PASSPHRASE)(?=_|\d*$)|SECRET|CREDENTIAL|API_?KEYS", re.IGNORECASE
)
SHORTEST_SECRET = 8  # characters that can be masked in a log: less are parts of ordinary words

# For a tokenizer without a chat template, as of a base model. Saved with the result, so that it is used as trained.
DEFAULT_CHAT_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "### {{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)

# The trainers' flag that goes on without the rows that cannot be used.
SKIP_BAD_ROWS = "skip-bad-rows"

# What a model that needs its own code is refused with, on both sides.
RUN_ITS_CODE = (
    "if you have read it, `--trust-remote-code` runs it (`trainer_args: {trust-remote-code: true}`; `dimba data` wants "
    "--trust-spec too); where transformers has this model itself, take `auto_map` out of the configuration instead"
)

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
PATH_STARTS = ("./", "../", "/", "~", "data/", "checkpoints/")
TRAINED_OUTPUT = ("config.json", "adapter_config.json", "*.safetensors", "checkpoint-*")


def names_a_path(value: str) -> bool:
    """Whether `value` means a path rather than a Hub id: it exists, starts like one or ends in a data suffix."""
    return is_written_as_path(value) or os.path.exists(value)


def is_written_as_path(value: str) -> bool:
    """The same, without a look at the disk."""
    return value.startswith(PATH_STARTS) or value.removesuffix(".gz").endswith(DATA_SUFFIXES)


def absolute(path: str | Path, folder: Path | None = None) -> Path:
    """`path` with `~` and `..` resolved against `folder` (the current one), links left as they are."""
    return Path(os.path.normpath((folder or Path.cwd()) / os.path.expanduser(path)))


def json_object(path: Path) -> dict[str, Any]:
    """What somebody noted in a file; empty where it is not there, not whole or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def names_a_secret(variable: str) -> bool:
    """Whether a variable of this name holds what must not be seen: WANDB_API_KEY, but not TOKENIZERS_PARALLELISM."""
    return bool(_SECRET_NAME.search(variable))


def cache_home() -> Path:
    """Where dimba itself remembers what it found out."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dimba"


def trained_files(folder: Path) -> list[Path]:
    """What shows that a model or its checkpoints already lie in `folder`; empty where it does not exist."""
    return sorted(path for pattern in TRAINED_OUTPUT for path in folder.glob(pattern))
