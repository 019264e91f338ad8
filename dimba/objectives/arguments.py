"""The trainers' flags, declared once. Standard library only, so that `--help` answers at once."""

import argparse
import math
from collections.abc import Callable

from dimba.objectives.batching import GENERATIONS, default_learning_rate
from dimba.objectives.rewards import VERIFIERS

BETA_DEFAULTS = "(default: 0, with a reward model 0.04)"
WEAK_REWARD = 0.6  # of held-out pairs that a reward model has to order rightly


def sft_arguments() -> argparse.ArgumentParser:
    """Flags of `finetune_sft.py`."""
    parser = _parser("Supervised fine-tuning: full, LoRA or Q-LoRA, with the loss on the assistant's tokens only.")
    _add_what(parser, output_required=True)
    _add_method(parser)
    _add_optimisation(parser, "sft")
    parser.add_argument(
        "--num-epochs",
        "--epochs",
        dest="epochs",
        type=above_zero,
        default=3.0,
        metavar="N",
        help="passes over the data",
    )
    _add_data(parser)
    _add_speed(parser)
    _add_running(parser)
    return parser


def grpo_arguments() -> argparse.ArgumentParser:
    """Flags of `finetune_grpo.py`."""
    parser = _parser("GRPO: answers sampled in groups, the better rewarded ones made likelier.")
    _add_what(parser, output_required=False)
    _add_method(parser)
    _add_optimisation(parser, "grpo")
    parser.add_argument(
        "--epochs", "--num-epochs", dest="epochs", type=above_zero, default=1.0, metavar="N", help="passes"
    )
    _add_sampling(parser)
    _add_reward(parser)
    _add_prompts(parser)
    _add_running(parser)
    return parser


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    fitting = f"completions a prompt (default: {GENERATIONS}, or the most that make whole groups)"
    add("--num-generations", type=at_least(2), metavar="N", help=fitting)
    add("--max-completion-length", type=at_least(1), default=256, metavar="N", help="tokens a completion")
    add("--temperature", type=above_zero, default=1.0, metavar="T", help="how freely completions are sampled")
    add("--beta", type=not_below_zero, metavar="BETA", help=f"weight of staying close to the start {BETA_DEFAULTS}")
    add("--use-vllm", action="store_true", help="sample with vLLM on the same GPU, where it is installed")
    add("--sample-steps", type=at_least(1), default=10, metavar="N", help="steps between samples in samples.jsonl")


def _add_reward(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    names = f"auto looks at the rows; {', '.join(VERIFIERS)}, preference, similarity; or path/to/file.py:function"
    add("--reward", nargs="+", default=["auto"], metavar="NAME", help=names)
    add("--reward-weights", nargs="+", type=finite, metavar="WEIGHT", help="one for each reward (default: 1)")
    add("--reward-model", metavar="MODEL", help="one that is trained already, for the reward `preference`")
    add("--reward-epochs", type=above_zero, default=1.0, metavar="N", help="passes of the reward model over the pairs")
    add("--reward-learning-rate", type=above_zero, default=1e-4, metavar="RATE", help="of the reward model's adapter")
    add("--allow-weak-reward", action="store_true", help=f"go on with one below {WEAK_REWARD:.0%}% on held-out pairs")


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--on-long", choices=("drop",), help="prompts with no room for a completion: leave them out (default: refuse)")
    add("--skip-bad-rows", action="store_true", help="leave out rows that cannot be used, and say how many")
    add("--validation-split", type=held_out, metavar="WHAT", help="a share (0.05) or a number of prompts to test on")


def _parser(description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=description, allow_abbrev=False)


def _add_what(parser: argparse.ArgumentParser, *, output_required: bool) -> None:
    add = parser.add_argument
    add("--base-checkpoint", required=True, help="a folder in Hugging Face format, or a Hub id")
    add("--dataset", required=True, help="a local file (.jsonl, .json, .csv, .parquet, .txt, also as .gz), or a Hub id")
    add("--dataset-config", help="the Hub data set's configuration")
    add("--dataset-split", help="the Hub data set's split (default: train)")
    add("--columns", nargs="+", default=[], metavar="OURS=YOURS", help="names of columns, such as prompt=question")
    add("--allow-pickle", action="store_true", help="read weights that are no safetensors; reading them may run code")
    add("--trust-remote-code", action="store_true", help="run code that the checkpoint brings along")
    add("--output-dir", required=output_required, help="where the model or adapter goes")


def _add_method(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--use-lora", action="store_true", help="train an adapter, not the model")
    add("--use-qlora", action="store_true", help="the same on a base quantised to 4 bits (nf4)")
    add("--lora-r", type=at_least(1), default=8, metavar="R", help="rank of the adapter")
    add("--lora-alpha", type=at_least(1), default=16, metavar="ALPHA", help="scale of the adapter, over its rank")


def _add_optimisation(parser: argparse.ArgumentParser, mode: str) -> None:
    add = parser.add_argument
    add("--batch-size", type=at_least(1), default=4, metavar="N", help="rows a device and forward pass")
    add("--grad-accumulation-steps", type=at_least(1), default=16, metavar="N", help="batches an optimiser step")
    add("--max-steps", type=at_least(1), metavar="N", help="optimiser steps, instead of epochs")
    add("--learning-rate", type=above_zero, metavar="RATE", help=_rates(mode))
    add("--max-length", type=at_least(8), default=1024, metavar="N", help="tokens an example may have")
    add("--seed", type=at_least(0), default=42, metavar="N", help="order of rows and random weights")


def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--train-on", choices=("all", "last"), default="all", help="of each chat, every assistant turn or the last")
    add("--on-long", choices=("split", "truncate", "drop"), help="rows over --max-length; more than a tenth needs it")
    add("--skip-bad-rows", action="store_true", help="leave out rows that cannot be used, and say how many")
    add("--validation-split", type=held_out, metavar="WHAT", help="a share (0.05), a number of rows, or a Hub split")
    add("--eval-steps", type=at_least(1), metavar="N", help="steps between evaluations (default: once an epoch)")


def _add_speed(parser: argparse.ArgumentParser) -> None:
    def add(flag: str, *values: str, help: str) -> None:
        parser.add_argument(flag, choices=("auto", *values), default="auto", help=help)

    add("--packing", "off", help="lay rows end to end, where the model keeps them apart")
    kinds = ("documents", "sdpa", "eager", "flash_attention_2")
    add("--attention", *kinds, help="auto: within documents where rows are packed on a CPU, else sdpa")
    add("--mixed-precision", "no", "bf16", "fp16", help="auto: as accelerate is told; else float32 on a CPU")


def _rates(mode: str) -> str:
    adapters, full = (default_learning_rate(mode, method) for method in ("lora", "full"))
    return f"default: {adapters:g} for adapters, {full:g} for full"


def _add_running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where it works, else the CPU")
    again = "compute activations again, to save memory; auto: where a card cannot keep them"
    add("--activation-checkpointing", choices=("auto", "on", "off"), default="auto", help=again)
    add("--save-steps", type=at_least(1), default=500, metavar="N", help="optimiser steps between checkpoints")
    add("--save-total-limit", type=at_least(1), default=2, metavar="N", help="checkpoints kept")
    add("--resume-from-checkpoint", metavar="FOLDER", help="continue from a checkpoint-<step> folder")


def at_least(least: int) -> Callable[[str], int]:
    """A type for argparse: whole numbers from `least` on."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"`{text}` is not a whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is less than {least}")
        return number

    return parse


def above_zero(text: str) -> float:
    """A type for argparse: numbers above zero, infinity excluded."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is not a number") from None
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return number


def finite(text: str) -> float:
    """A type for argparse: numbers, infinity excluded."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is not a number") from None
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text} is no finite number")
    return number


def not_below_zero(text: str) -> float:
    """A type for argparse: zero and numbers above."""
    return 0.0 if text.strip() in ("0", "0.0") else above_zero(text)


def held_out(text: str) -> float | str:
    """A type for argparse: a share of the rows below 1, a whole number of them, or the name of a split."""
    try:
        number = float(text)
    except ValueError:
        return text
    if not 0 < number < float("inf") or (number >= 1 and number % 1):
        raise argparse.ArgumentTypeError(f"{text} is neither a share between 0 and 1 nor a whole number of rows")
    return number


def column_names(pairs: list[str]) -> dict[str, str]:
    """`["prompt=question"]` as {"prompt": "question"}; raises ValueError for what is no pair."""
    wrong = [pair for pair in pairs if not all(pair.partition("="))]
    if wrong:
        raise ValueError(f"--columns: `{wrong[0]}` is not OURS=YOURS")
    return {ours: theirs for ours, _, theirs in (pair.partition("=") for pair in pairs)}
