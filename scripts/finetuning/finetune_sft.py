"""Supervised fine-tuning: full, LoRA or Q-LoRA.

    python scripts/finetuning/finetune_sft.py --base-checkpoint checkpoints/base \
        --dataset data/my_sft.jsonl --output-dir checkpoints/finetune_sft_full

Alone, under `accelerate launch`, and in the container: the same flags.
"""

import sys

from dimba.objectives.sft import SFT
from dimba.trainers.command import run_script

if __name__ == "__main__":
    sys.exit(run_script(SFT))
