"""The table of parameters: key, type, bounds, default, flags, help and question of each, declared once.

The spec's model, the trainers' `--help`, the alias table, the wizard, the JSON Schema and the reference in `docs/` read
it. Defaults that depend on the mode are in the options of each objective; the learning rate's in its `Rates`.
"""

from functools import partial

from dimba.options.kinds import MOST, HeldOut, Integer, Number, OneOf, Switch
from dimba.options.param import GROUPS, Param

_data, _method, _optimisation, _rows, _run = (
    partial(Param, group=group) for group in GROUPS if group not in ("sampling", "reward", "speed")
)

# The base checkpoint and the data set.
MODE = _data(
    key="mode",
    flags=("--mode",),
    aliases=("--mode", "--train-mode", "--training-mode"),
    help="the training objective",
    question="Mode",
)
BASE = _data(
    key="base_checkpoint",
    flags=("--base-checkpoint",),
    aliases=(
        *("--base-model", "--base-model-path", "--base-checkpoint", "--model-path", "--model"),
        *("--checkpoint", "--checkpoint-path"),
    ),
    metavar="PATH|ID",
    help="a folder in Hugging Face format, or a Hub id",
    question="Base checkpoint",
)
BASE_REVISION = _data(
    key="base_revision",
    flags=("--base-revision",),
    aliases=("--base-revision", "--model-revision"),
    metavar="COMMIT",
    help="the commit, tag or branch of a base on the Hub (default: the newest commit)",
)
_DATASET = ("--dataset", "--dataset-name", "--dataset_name", "--hf-dataset")
DATASET = _data(
    key="dataset.name",
    flags=("--dataset",),
    aliases=_DATASET,
    metavar="ID|PATH",
    help="a Hub id, or a file (.jsonl, .json, .csv, .parquet, .arrow, .txt, also as .gz), a folder or a pattern",
    question="Data set",
)
MIXTURE = _data(
    key="dataset",
    flags=("--mixture",),
    aliases=("--mixture",),
    several=True,
    default=[],
    metavar="JSON",
    help='several data sets in place of --dataset, each as \'{"path": …, "weight": 2}\'',
)
LOCAL_DATA = _data(
    key="dataset.path",
    aliases=("--dataset-path", "--data-path", "--train-file", "--dataset-file", *_DATASET),
    help="a file, a folder of files, a folder of `save_to_disk`, or a pattern such as shards/*.jsonl",
    question="File",
)
DATA_FORMAT = _data(
    key="dataset format", aliases=("--dataset-format", "--data-format"), help="the suffix of the local file"
)
DATASET_CONFIG = _data(
    key="dataset.config",
    flags=("--dataset-config",),
    aliases=("--dataset-config", "--dataset_config", "--hf-dataset-config"),
    metavar="NAME",
    help="the Hub data set's configuration",
    question="Configuration",
)
DATASET_SPLIT = _data(
    key="dataset.split",
    flags=("--dataset-split",),
    aliases=("--dataset-split", "--dataset_split", "--split"),
    metavar="NAME",
    help="the split of the Hub data set or folder",
    question="Split",
)
DATASET_REVISION = _data(
    key="dataset.revision",
    flags=("--dataset-revision",),
    aliases=("--dataset-revision", "--dataset_revision"),
    metavar="COMMIT",
    help="the commit, tag or branch of a data set on the Hub (default: the newest commit)",
)
COLUMNS = _data(
    key="dataset.columns",
    flags=("--columns",),
    aliases=("--columns",),
    several=True,
    default=[],
    metavar="OURS=YOURS",
    help="names of your columns, such as prompt=question response=answer",
    question="Columns",
)
ALLOW_PICKLE = _data(
    flags=("--allow-pickle",), kind=Switch(), help="read weights that are not safetensors; reading them may run code"
)
TRUST_REMOTE_CODE = _data(
    flags=("--trust-remote-code",),
    kind=Switch(),
    help="run code that comes with the checkpoint",
    question="Run the base's own code",
)
OUTPUT_DIR = _data(
    key="output_dir",
    flags=("--output-dir",),
    aliases=("--output-dir", "--output_dir"),
    metavar="FOLDER",
    help="folder for the model or adapter",
    question="Output folder",
)

# The method.
METHOD = _method(
    key="method",
    flags=("--method",),
    kind=OneOf(("full", "lora", "qlora")),
    help="which weights are trained",
    question="Method",
)
FULL = _method(key="method", aliases=("--full-finetune", "--full-ft"), help="train every weight")
USE_LORA = _method(
    key="method",
    flags=("--use-lora",),
    aliases=("--use-lora", "--lora", "--enable-lora"),
    kind=Switch(),
    help="train a LoRA adapter",
)
USE_QLORA = _method(
    key="method",
    flags=("--use-qlora",),
    aliases=("--use-qlora", "--qlora"),
    kind=Switch(),
    help="train a LoRA adapter on a base quantised to 4 bits (nf4)",
)
LORA_R = _method(
    key="lora.r",
    flags=("--lora-r",),
    aliases=("--lora-r", "--lora_r", "--rank"),
    kind=Integer(),
    default=8,
    metavar="R",
    help="rank of the adapter",
    question="LoRA rank",
)
LORA_ALPHA = _method(
    key="lora.alpha",
    flags=("--lora-alpha",),
    aliases=("--lora-alpha", "--lora_alpha"),
    kind=Integer(),
    default=16,
    metavar="ALPHA",
    help="scale of the adapter, over its rank",
    question="LoRA alpha",
)

# Optimisation.
BATCH_SIZE = _optimisation(
    key="training.batch_size",
    flags=("--batch-size",),
    aliases=("--batch-size", "--per-device-train-batch-size", "--train-batch-size", "--micro-batch-size"),
    kind=Integer(),
    default=4,
    metavar="N",
    help="rows per GPU and forward pass",
    question="Batch size",
)
ACCUMULATION = _optimisation(
    key="training.grad_accumulation_steps",
    flags=("--grad-accumulation-steps",),
    aliases=(
        *("--gradient-accumulation-steps", "--grad-accumulation-steps", "--grad-accum-steps", "--accumulation-steps"),
    ),
    kind=Integer(),
    default=16,
    metavar="N",
    help="batches per optimiser step",
    question="Gradient accumulation",
)
EPOCHS = _optimisation(
    key="training.epochs",
    flags=("--epochs", "--num-epochs"),
    aliases=("--epochs", "--num-train-epochs", "--num-epochs"),
    kind=Number(above=0, most=MOST),
    metavar="N",
    help="passes over the data",
    question="Epochs",
)
MAX_STEPS = _optimisation(
    key="training.max_steps",
    flags=("--max-steps",),
    aliases=("--max-steps", "--max_steps"),
    kind=Integer(),
    metavar="N",
    help="optimiser steps, instead of epochs",
    question="Max steps",
)
LEARNING_RATE = _optimisation(
    key="training.learning_rate",
    flags=("--learning-rate",),
    aliases=("--learning-rate", "--lr"),
    kind=Number(above=0),
    metavar="RATE",
    help="learning rate, such as 2e-4",
    question="Learning rate",
)
MAX_LENGTH = _optimisation(
    key="training.max_length",
    flags=("--max-length",),
    aliases=("--max-length", "--max_length", "--max-seq-length"),
    kind=Integer(least=8),
    default=1024,
    metavar="N",
    help="tokens per row at most",
    question="Max length",
)
SEED = _optimisation(
    key="training.seed",
    flags=("--seed",),
    aliases=("--seed",),
    kind=Integer(least=0, most=2**32 - 1),
    default=42,
    metavar="N",
    help="seed of the order of rows and of random weights",
)
BETA = _optimisation(
    flags=("--beta",), kind=Number(least=0), metavar="BETA", help="weight of the divergence from the base model"
)

# Rows.
TRAIN_ON = _rows(
    flags=("--train-on",),
    kind=OneOf(("all", "last")),
    default="all",
    help="train on every assistant turn of a chat, or on the last",
)
ON_LONG = _rows(
    flags=("--on-long",),
    kind=OneOf(("split", "truncate", "drop")),
    help="rows over --max-length; required if more than a tenth of the trained tokens would be cut",
)
SKIP_BAD_ROWS = _rows(flags=("--skip-bad-rows",), kind=Switch(), help="skip unusable rows and report how many")
VALIDATION_SPLIT = _rows(
    flags=("--validation-split",),
    kind=HeldOut(),
    metavar="ROWS",
    help="rows to hold out: a share (0.05), a number of rows, or a Hub split",
)
EVAL_STEPS = _rows(
    flags=("--eval-steps",),
    kind=Integer(),
    metavar="N",
    help="optimiser steps between evaluations (default: once per epoch)",
)

# The run.
DEVICE = _run(
    key="resources.gpus",
    flags=("--device",),
    aliases=("--device", "--accelerator"),
    kind=OneOf(("auto", "cpu", "cuda")),
    default="auto",
    help="auto: CUDA if it works, else the CPU",
)
GPUS = _run(
    key="resources.gpus",
    flags=("--gpus",),
    aliases=("--gpus", "--num-gpus", "--num_gpus"),
    metavar="WHICH",
    help="all, none, a number, or a list such as 0,1",
    question="Which GPUs",
)
SAVE_STEPS = _run(
    flags=("--save-steps",), kind=Integer(), default=500, metavar="N", help="optimiser steps between checkpoints"
)
SAVE_TOTAL_LIMIT = _run(flags=("--save-total-limit",), kind=Integer(), default=2, metavar="N", help="checkpoints kept")
RESUME = _run(
    flags=("--resume-from-checkpoint",),
    aliases=("--resume-from-checkpoint",),
    metavar="FOLDER",
    help="continue from a checkpoint-<step> folder",
)
