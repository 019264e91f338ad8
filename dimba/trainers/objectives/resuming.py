"""What a checkpoint was trained with: noted in it, and compared before a run continues from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimba.common.contract import ENV_ANYWAY, absolute, is_path, read_json_object
from dimba.common.errors import BadInput
from dimba.common.sampled_hash import sampled_hash
from dimba.objectives.objective import Objective
from dimba.options.param import params
from dimba.options.table import RESUME
from dimba.options.trainer import TrainerOptions
from dimba.trainers.data.loading import sources_from
from dimba.trainers.models.checkpoints import TRAINED_WITH_FILE, checkpoint_to_resume
from dimba.trainers.ranks import is_main_process, world_size

# Fields of the options. Rates, steps and passes may change: a run may go on for longer, or more carefully.
_SHAPE = ("lora_r", "lora_target_modules", "lora_modules_to_save", "lora_trainable_tokens", "use_dora")
_ADAPTER = (*_SHAPE, "lora_alpha", "use_rslora", "lora_init")
_ROWS = (
    *("dataset_config", "dataset_split", "columns", "validation_split", "max_length", "seed", "train_on", "on_long"),
    *("packing", "skip_bad_rows", "control_tokens", "chat_template_kwargs", "template_date", "num_generations"),
    *("stream", "dataset_revision", "mask_token", "end_tail"),
)
_UNLOADABLE = frozenset(("mode", "method", "optimizer", *_SHAPE))  # the saved tensors would not fit
_BASE_FILES = ("config.json", "*.safetensors", "*.bin", "tokenizer*", "chat_template*")


@dataclass(frozen=True)
class Beginning:
    """The checkpoint that a run continues from, None for a new run, and what it trains with, for its checkpoints."""

    checkpoint: str | None
    trained_with: Mapping[str, Any]


def beginning_of(options: TrainerOptions, objective: Objective[Any]) -> Beginning:
    """Where the run begins; prints a line for a checkpoint that cannot be compared, or differs and is used anyway.

    Raises:
        BadInput: the checkpoint does not exist, is not complete, or was trained with something else.
    """
    checkpoint = checkpoint_to_resume(options.resume_from_checkpoint)
    if not is_main_process():  # which reads the files, refuses for all, and writes
        return Beginning(checkpoint, {})
    now = trained_with(options, objective.name)
    if checkpoint:
        _compare(Path(checkpoint), now, options)
    return Beginning(checkpoint, now)


def trained_with(options: TrainerOptions, mode: str) -> dict[str, Any]:
    """What must stay the same for a run to continue, as JSON; local files are known by their content."""
    base = options.base_checkpoint
    names = (*_ROWS, "optimizer", *(_ADAPTER if options.method != "full" else ()))
    values = {name: getattr(options, name) for name in names if hasattr(options, name)}
    found = {
        "mode": mode,
        "method": options.method,
        "effective_batch": options.batch_size * options.grad_accumulation_steps * world_size(),
        "base_checkpoint": {"name": base, "content": sampled_hash(_base_files(base)) if is_path(base) else None},
        "dataset": _data(options),
        **values,
    }
    as_read: dict[str, Any] = json.loads(json.dumps(found))  # tuples become lists, as in the note
    return as_read


def _data(options: TrainerOptions) -> dict[str, str | None]:
    """The data with a hash of their content; of a list of data sets, of their settings too."""
    sources = sources_from(options)
    contents = [sampled_hash(each.files.files) if is_path(each.dataset) else None for each in sources]
    if not options.mixture:
        return {"name": options.dataset, "content": contents[0]}
    name = ", ".join(f"{each.dataset} × {each.weight:g}" for each in sources)
    if any(is_path(each.dataset) and not content for each, content in zip(sources, contents, strict=True)):
        return {"name": name, "content": None}
    parts = [
        (content or each.dataset, each.config, each.split, sorted(each.columns.items()), each.weight)
        for each, content in zip(sources, contents, strict=True)
    ]
    return {"name": name, "content": hashlib.sha256(json.dumps(parts).encode()).hexdigest()}


def _compare(checkpoint: Path, now: Mapping[str, Any], options: TrainerOptions) -> None:
    before = read_json_object(checkpoint / TRAINED_WITH_FILE)
    if not before:
        print(f"{checkpoint.name} has no note of what it was trained with: compared in part", flush=True)
        before = _of_adapter(checkpoint, now)
    changed = [name for name in before if name in now and not _is_same(before[name], now[name])]
    if not changed:
        return
    lines = [f"{_label(name, options)}: {_shown(before[name])}, now {_shown(now[name])}" for name in changed]
    fits = not _UNLOADABLE & set(changed)
    if os.environ.get(ENV_ANYWAY) and fits:
        print(f"{checkpoint.name} was trained with something else, and is continued: {'; '.join(lines)}", flush=True)
        return
    listed = "\n".join(f"  {line}" for line in lines)
    way = f"`{ENV_ANYWAY}=1` in the environment continues with it" if fits else f"leave out {RESUME.flag} to start over"
    problem = f"{checkpoint} was trained with something else:\n{listed}"
    raise BadInput(problem, f"give what it was trained with; or {way}", key=RESUME.flag)


def _of_adapter(checkpoint: Path, now: Mapping[str, Any]) -> dict[str, Any]:
    """What the checkpoint of another trainer, or of an older version, shows: whether it is an adapter, and its rank."""
    config = read_json_object(checkpoint / "adapter_config.json")
    is_adapter = now["method"] != "full"
    if not config:
        return {"method": "full"} if is_adapter else {}
    return {"lora_r": config.get("r")} if is_adapter else {"method": "lora"}


def _is_same(before: Any, now: Any) -> bool:
    if isinstance(before, dict) and isinstance(now, dict) and before.get("content") and now.get("content"):
        return bool(before["content"] == now["content"])  # wherever it lies now
    return bool(before == now)


def _label(name: str, options: TrainerOptions) -> str:
    known = params(type(options))
    return known[name].flag if name in known else name.replace("_", " ")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        content = value.get("content")
        return f"{value['name']} ({content[:12]}…)" if content else str(value["name"])
    return "none" if value in (None, []) else str(value)


def _base_files(base: str) -> list[Path]:
    return sorted({path for pattern in _BASE_FILES for path in absolute(base).glob(pattern) if path.is_file()})
