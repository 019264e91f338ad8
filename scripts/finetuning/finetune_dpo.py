"""DPO: of two answers to a prompt, the preferred one is made more likely; full, LoRA or Q-LoRA.

    python scripts/finetuning/finetune_dpo.py --base-checkpoint checkpoints/finetune_sft_full \
        --dataset data/my_pairs.jsonl --beta 0.1 --output-dir checkpoints/finetune_dpo_full

Alone, under `accelerate launch`, and in the container: the same flags.
"""

import sys

from dimba.objectives.dpo import DPO
from dimba.trainers.command import run_script

if __name__ == "__main__":
    sys.exit(run_script(DPO))
