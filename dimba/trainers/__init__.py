"""The training process inside the container: the only room that imports torch, transformers, trl and peft."""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # huggingface_hub reads it when it is imported
