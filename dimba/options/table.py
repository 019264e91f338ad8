"""The table of parameters: what a job can be told, said once.

The spec's model, the trainers' `--help`, the alias table, the wizard, the JSON Schema and the reference in `docs/` read
it. Defaults that depend on the mode are in the options of each objective; the learning rate's in its `Rates`.
"""

from dimba.options.kinds import MOST, HeldOut, Integer, Number, OneOf, Switch
from dimba.options.param import Param

# What is trained, and on what.
MODE = Param(
    key="mode", help="the training objective", question="Mode", aliases=("--mode", "--train-mode", "--training-mode")
)
BASE = Param(
    key="base_checkpoint",
    flags=("--base-checkpoint",),
    aliases=(
        *("--base-model", "--base-model-path", "--base-checkpoint", "--model-path", "--model"),
        *("--checkpoint", "--checkpoint-path"),
    ),
    help="a folder in Hugging Face format, or a Hub id",
)
_DATASET = ("--dataset", "--dataset-name", "--dataset_name", "--hf-dataset")
DATASET = Param(
    key="dataset.name",
    flags=("--dataset",),
    aliases=_DATASET,
    help="a local file (.jsonl, .json, .csv, .parquet, .txt, also as .gz), or a Hub id",
    question="Data set",
)
LOCAL_DATA = Param(
    key="dataset.path",
    aliases=("--dataset-path", "--data-path", "--train-file", "--dataset-file", *_DATASET),
    help="a local file",
    question="File",
)
DATA_FORMAT = Param(
    key="dataset format", aliases=("--dataset-format", "--data-format"), help="the suffix of the local file"
)
DATASET_CONFIG = Param(
    key="dataset.config",
    flags=("--dataset-config",),
    aliases=("--dataset-config", "--dataset_config", "--hf-dataset-config"),
    help="the Hub data set's configuration",
    question="Configuration",
)
DATASET_SPLIT = Param(
    key="dataset.split",
    flags=("--dataset-split",),
    aliases=("--dataset-split", "--dataset_split", "--split"),
    help="the Hub data set's split (default: train)",
    question="Split",
)
COLUMNS = Param(
    key="dataset.columns",
    flags=("--columns",),
    aliases=("--columns",),
    several=True,
    default=[],
    metavar="OURS=YOURS",
    help="names of columns, such as prompt=question",
    question="Columns",
)
ALLOW_PICKLE = Param(
    flags=("--allow-pickle",), kind=Switch(), help="read weights that are not safetensors; reading them may run code"
)
TRUST_REMOTE_CODE = Param(flags=("--trust-remote-code",), kind=Switch(), help="run code that comes with the checkpoint")
OUTPUT_DIR = Param(
    key="output_dir",
    flags=("--output-dir",),
    aliases=("--output-dir", "--output_dir"),
    help="folder for the model or adapter",
    question="Output folder",
)

# The method.
METHOD = Param(key="method", help="which weights are trained", question="Method")
FULL = Param(key="method", aliases=("--full-finetune", "--full-ft"), help="train every weight")
USE_LORA = Param(
    key="method",
    flags=("--use-lora",),
    aliases=("--use-lora", "--lora", "--enable-lora"),
    kind=Switch(),
    help="train a LoRA adapter",
)
USE_QLORA = Param(
    key="method",
    flags=("--use-qlora",),
    aliases=("--use-qlora", "--qlora"),
    kind=Switch(),
    help="train a LoRA adapter on a base quantised to 4 bits (nf4)",
)
LORA_R = Param(
    key="lora.r",
    flags=("--lora-r",),
    aliases=("--lora-r", "--lora_r", "--rank"),
    kind=Integer(),
    default=8,
    metavar="R",
    help="rank of the adapter",
    question="LoRA rank",
)
LORA_ALPHA = Param(
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
BATCH_SIZE = Param(
    key="training.batch_size",
    flags=("--batch-size",),
    aliases=("--batch-size", "--per-device-train-batch-size", "--train-batch-size", "--micro-batch-size"),
    kind=Integer(),
    default=4,
    metavar="N",
    help="rows per GPU and forward pass",
    question="Batch size",
)
ACCUMULATION = Param(
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
EPOCHS = Param(
    key="training.epochs",
    flags=("--epochs", "--num-epochs"),
    aliases=("--epochs", "--num-train-epochs", "--num-epochs"),
    kind=Number(above=0, most=MOST),
    metavar="N",
    help="passes over the data",
    question="Epochs",
)
MAX_STEPS = Param(
    key="training.max_steps",
    flags=("--max-steps",),
    aliases=("--max-steps", "--max_steps"),
    kind=Integer(),
    metavar="N",
    help="optimiser steps, instead of epochs",
    question="Max steps",
)
LEARNING_RATE = Param(
    key="training.learning_rate",
    flags=("--learning-rate",),
    aliases=("--learning-rate", "--lr"),
    kind=Number(above=0),
    metavar="RATE",
    help="learning rate",
    question="Learning rate",
)
MAX_LENGTH = Param(
    key="training.max_length",
    flags=("--max-length",),
    aliases=("--max-length", "--max_length", "--max-seq-length"),
    kind=Integer(least=8),
    default=1024,
    metavar="N",
    help="tokens per row at most",
    question="Max length",
)
SEED = Param(
    key="training.seed",
    flags=("--seed",),
    aliases=("--seed",),
    kind=Integer(least=0, most=2**32 - 1),
    default=42,
    metavar="N",
    help="seed of the order of rows and of random weights",
)

# Rows.
TRAIN_ON = Param(
    flags=("--train-on",),
    kind=OneOf(("all", "last")),
    default="all",
    help="train on every assistant turn of a chat, or on the last",
)
ON_LONG = Param(
    flags=("--on-long",),
    kind=OneOf(("split", "truncate", "drop")),
    help="rows over --max-length; required where more than a tenth of the trained tokens would be cut",
)
SKIP_BAD_ROWS = Param(flags=("--skip-bad-rows",), kind=Switch(), help="skip unusable rows and report how many")
VALIDATION_SPLIT = Param(
    flags=("--validation-split",),
    kind=HeldOut(),
    metavar="ROWS",
    help="rows to hold out: a share (0.05), a number of rows, or a Hub split",
)
EVAL_STEPS = Param(
    flags=("--eval-steps",),
    kind=Integer(),
    metavar="N",
    help="optimiser steps between evaluations (default: once per epoch)",
)

# Speed.
PACKING = Param(
    flags=("--packing",),
    kind=OneOf(("auto", "off")),
    default="auto",
    help="auto: lay rows end to end where the model is proved to keep them apart",
)
ATTENTION = Param(
    flags=("--attention",),
    kind=OneOf(("auto", "documents", "sdpa", "eager", "flash_attention_2")),
    default="auto",
    help="auto: within documents where rows are packed on a CPU, else sdpa",
)
MIXED_PRECISION = Param(
    flags=("--mixed-precision",),
    kind=OneOf(("auto", "no", "bf16", "fp16")),
    default="auto",
    help="auto: what accelerate is configured for; else float32 on a CPU",
)

# GRPO: sampling.
GENERATIONS = 8  # completions of one prompt that are compared, by default
NUM_GENERATIONS = Param(
    flags=("--num-generations",),
    kind=Integer(least=2),
    metavar="N",
    help=f"completions per prompt (default: {GENERATIONS}, or the most that make complete groups)",
    question="Completions per prompt",
)
MAX_COMPLETION_LENGTH = Param(
    flags=("--max-completion-length",), kind=Integer(), default=256, metavar="N", help="tokens per completion at most"
)
TEMPERATURE = Param(
    flags=("--temperature",), kind=Number(above=0), default=1.0, metavar="T", help="sampling temperature"
)
BETA = Param(
    flags=("--beta",), kind=Number(least=0), metavar="BETA", help="weight of the divergence from the base model"
)
USE_VLLM = Param(flags=("--use-vllm",), kind=Switch(), help="sample with vLLM on the same GPU, where vLLM is installed")
SAMPLE_STEPS = Param(
    flags=("--sample-steps",),
    kind=Integer(),
    default=10,
    metavar="N",
    help="optimiser steps between samples in samples.jsonl",
)

# GRPO: rewards.
WEAK_REWARD = 0.6  # share of held-out pairs that a reward model must order rightly
REWARD = Param(
    flags=("--reward",), several=True, default=["auto"], metavar="NAME", help="rewards by name", question="Reward"
)
REWARD_WEIGHTS = Param(
    flags=("--reward-weights",),
    kind=Number(),
    several=True,
    metavar="WEIGHT",
    help="one weight per reward (default: 1)",
)
REWARD_MODEL = Param(
    flags=("--reward-model",), metavar="MODEL", help="a trained reward model, for the reward `preference`"
)
REWARD_EPOCHS = Param(
    flags=("--reward-epochs",),
    kind=Number(above=0),
    default=1.0,
    metavar="N",
    help="passes of the reward model over the pairs",
)
REWARD_LEARNING_RATE = Param(
    flags=("--reward-learning-rate",),
    kind=Number(above=0),
    default=1e-4,
    metavar="RATE",
    help="learning rate of the reward model's adapter",
)
ALLOW_WEAK_REWARD = Param(
    flags=("--allow-weak-reward",),
    kind=Switch(),
    help=f"continue with a reward model below {WEAK_REWARD:.0%}% on held-out pairs",
)

# The run.
DEVICE = Param(
    key="resources.gpus",
    flags=("--device",),
    aliases=("--device", "--accelerator"),
    kind=OneOf(("auto", "cpu", "cuda")),
    default="auto",
    help="auto: CUDA where it works, else the CPU",
)
GPUS = Param(
    key="resources.gpus", aliases=("--gpus", "--num-gpus", "--num_gpus"), help="number of GPUs", question="Which GPUs"
)
ACTIVATION_CHECKPOINTING = Param(
    flags=("--activation-checkpointing",),
    kind=OneOf(("auto", "on", "off")),
    default="auto",
    help="trade time for memory in the backward pass; auto: only where a GPU cannot keep activations",
)
SAVE_STEPS = Param(
    flags=("--save-steps",), kind=Integer(), default=500, metavar="N", help="optimiser steps between checkpoints"
)
SAVE_TOTAL_LIMIT = Param(flags=("--save-total-limit",), kind=Integer(), default=2, metavar="N", help="checkpoints kept")
RESUME = Param(
    flags=("--resume-from-checkpoint",),
    aliases=("--resume-from-checkpoint",),
    metavar="FOLDER",
    help="continue from a checkpoint-<step> folder",
)
