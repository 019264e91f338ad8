"""GRPO: answers sampled in groups, the better rewarded ones made likelier; full, LoRA or Q-LoRA.

    python scripts/finetuning/finetune_grpo.py --base-checkpoint checkpoints/finetune_sft_full \
        --dataset data/questions.jsonl --reward auto --output-dir checkpoints/finetune_grpo_full

Alone, under `accelerate launch`, and in the container: the same flags.
"""

import sys

from dimba.objectives.grpo import GRPO
from dimba.trainers.command import run_script

if __name__ == "__main__":
    sys.exit(run_script(GRPO))
