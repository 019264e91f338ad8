"""GRPO: answers sampled in groups, the better rewarded ones made likelier; full, LoRA or Q-LoRA.

    python scripts/finetuning/finetune_grpo.py --base-checkpoint checkpoints/finetune_sft_full \
        --dataset data/questions.jsonl --reward auto --output-dir checkpoints/finetune_grpo_full

Alone, under `accelerate launch`, and in the container: the same flags.
"""

import sys

from dimba.objectives.arguments import grpo_arguments
from dimba.trainers.command import hide_quantising, run_trainer


def main() -> int:
    """Parses the flags first, so that `--help` and a wrong flag answer before anything heavy is imported."""
    args = grpo_arguments().parse_args()
    hide_quantising(args)
    from dimba.trainers.objectives.grpo.train import train

    return run_trainer(train, args)


if __name__ == "__main__":
    sys.exit(main())
