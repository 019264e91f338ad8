"""GRPO: full, LoRA or Q-LoRA. Its flags are declared; its training is not there yet.

    python scripts/finetuning/finetune_grpo.py --base-checkpoint checkpoints/base --dataset data/questions.jsonl

A spec for it can be written, validated and planned; a launch says that it cannot be run yet.
"""

import sys

from dimba.arguments import grpo_arguments

NOT_YET = 2  # the exit status of what cannot be done as asked


def main() -> int:
    """Parses the flags, so that `--help` and a wrong flag answer as they will."""
    grpo_arguments().parse_args()
    sys.stderr.write(
        "error: GRPO's training is not there yet\n\n"
        "hint: give a trainer of your own with `trainer:`, or train with `mode: sft`\n"
    )
    return NOT_YET


if __name__ == "__main__":
    sys.exit(main())
