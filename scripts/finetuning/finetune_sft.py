"""Supervised fine-tuning: full, LoRA or Q-LoRA.

    python scripts/finetuning/finetune_sft.py --base-checkpoint checkpoints/base \
        --dataset data/my_sft.jsonl --output-dir checkpoints/finetune_sft_full

Alone, under `accelerate launch`, and in the container: the same flags.
"""

import sys

from dimba.objectives.arguments import sft_arguments
from dimba.trainers.command import hide_quantising, run_trainer


def main() -> int:
    """Parses the flags first, so that `--help` and a wrong flag answer before anything heavy is imported."""
    args = sft_arguments().parse_args()
    hide_quantising(args)
    from dimba.trainers.objectives.sft import train

    return run_trainer(train, args)


if __name__ == "__main__":
    sys.exit(main())
