"""Command lines that train the same model on the same rows, for `scripts/bench/train.py`.

LLaMA-Factory's was tested with 0.9.5. axolotl 0.19.0 trained rows of its alpaca type, but hung preparing these chats.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RATE = "1e-3"
PEERS = {"LLaMA-Factory": "llamafactory-cli", "axolotl": "axolotl"}


@dataclass(frozen=True)
class Work:
    """The work of every trainer: one pass over the rows."""

    folder: Path
    batch: int
    length: int
    packs: int  # packed rows per step with about as many tokens as `batch` rows
    on_cpu: bool


def ours(work: Work, out: Path, *more: str) -> list[str]:
    script = Path(__file__).parents[1] / "finetuning" / "finetune_sft.py"
    flags = {
        "base-checkpoint": work.folder / "base", "dataset": work.folder / "rows.json", "output-dir": out,
        "batch-size": work.batch, "grad-accumulation-steps": 1, "num-epochs": 1, "learning-rate": RATE,
        "max-length": work.length, "device": "cpu" if work.on_cpu else "cuda",
    }  # fmt: skip
    return [sys.executable, str(script), *_flags(flags), *more]


def trl(work: Work, out: Path, *, packing: bool) -> list[str]:
    """TRL's defaults except for the common settings; on a CPU it cannot start with bf16, its default."""
    flags = {
        "model_name_or_path": work.folder / "base", "dataset_name": work.folder / "chats", "output_dir": out,
        "per_device_train_batch_size": work.packs if packing else work.batch, "num_train_epochs": 1,
        "learning_rate": RATE, "warmup_steps": 0.03, "max_length": work.length, "logging_steps": 1,
        "report_to": "none", "save_strategy": "no",
    }  # fmt: skip
    more = {"use_cpu": "true", "bf16": "false"} if work.on_cpu else {}
    packed = {"packing": "true"} if packing else {}
    return [str(Path(sys.executable).parent / "trl"), "sft", *_flags(flags | more | packed)]


def llama_factory(work: Work, out: Path) -> list[str]:
    """Without a `template`, LLaMA-Factory uses the checkpoint's."""
    (work.folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}), encoding="utf-8")
    settings = {
        "model_name_or_path": str(work.folder / "base"), "stage": "sft", "do_train": True, "finetuning_type": "full",
        "dataset_dir": str(work.folder), "dataset": "rows", "cutoff_len": work.length,
        "output_dir": str(out), "per_device_train_batch_size": work.batch, "gradient_accumulation_steps": 1,
        "num_train_epochs": 1, "learning_rate": float(RATE), "warmup_ratio": 0.03, "logging_steps": 1,
        "report_to": "none", "save_strategy": "no", "bf16": not work.on_cpu, "use_cpu": work.on_cpu,
    }  # fmt: skip
    return [PEERS["LLaMA-Factory"], "train", _written(work.folder / "llama_factory.yaml", settings)]


def axolotl(work: Work, out: Path) -> list[str]:
    """Packed, as in axolotl's examples, with the checkpoint's own template."""
    rows = {"path": str(work.folder / "messages.jsonl"), "ds_type": "json", "type": "chat_template"}
    settings = {
        "base_model": str(work.folder / "base"), "datasets": [rows], "chat_template": "tokenizer_default",
        "dataset_prepared_path": str(out / "prepared"), "sequence_len": work.length,
        "sample_packing": True, "output_dir": str(out), "micro_batch_size": work.packs,
        "gradient_accumulation_steps": 1, "num_epochs": 1, "learning_rate": float(RATE), "optimizer": "adamw_torch",
        "lr_scheduler": "linear", "logging_steps": 1, "save_strategy": "no", "bf16": not work.on_cpu,
    }  # fmt: skip
    return [PEERS["axolotl"], "train", _written(work.folder / "axolotl.yaml", settings), "--launcher", "python"]


def _written(path: Path, settings: dict[str, Any]) -> str:
    path.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    return str(path)


def _flags(flags: dict[str, Any]) -> list[str]:
    return [text for name, value in flags.items() for text in (f"--{name}", str(value))]
