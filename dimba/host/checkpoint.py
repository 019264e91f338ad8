"""The facts of a base checkpoint, read from config.json and the safetensors headers without torch."""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dimba.common.checkpoint import (
    Checkpoint,
    Refusal,
    Unreadable,
    adapter_refusal,
    count_tokens,
    incomplete_refusal,
    positions_of,
    quantization_of,
    read_checkpoint,
    refusal_of,
    tokenizer_needs,
    vocabulary_refusal,
)
from dimba.common.checkpoint.adapted import EXPERT, JOINED
from dimba.common.checkpoint.files import INDEX, Tensors, other_format_refusal
from dimba.common.checkpoint.releases import library_type
from dimba.common.checkpoints import CONFIGS, asks_for_code
from dimba.common.contract import absolute, is_path, read_json_object
from dimba.host.facts import CheckpointFacts
from dimba.host.links import links_out_of
from dimba.host.model_shape import model_shape
from dimba.host.places import why_not_read
from dimba.objectives.families import family_of

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json", "spiece.model")


def look_at_checkpoint(reference: str, folder: Path, *, allow_pickle: bool = False) -> CheckpointFacts:
    """Facts of `reference`: a path relative to `folder`, or a Hub id, which is not looked up.

    Weights without safetensors are a problem, unless `allow_pickle`.
    """
    path = absolute(reference, folder)
    if path.is_symlink() and not os.path.exists(path):
        return _refused(path, "is a broken link", "fix the link, or give another path")
    if not (os.path.exists(path) or is_path(reference)):
        if reference.count("/") > 1:
            return _refused(path, "is neither a folder nor a Hub id", "give a path, or `owner/name`")
        return CheckpointFacts(reference=reference, local=False)
    if not os.path.exists(path):
        hint = (
            "correct the path, which is relative to the folder that dimba is run in if it does not start with `/`; "
            "or give a Hub id (`owner/name`)"
        )
        return _refused(path, "does not exist", hint)
    if why := why_not_read(path):
        return _refused(path, why, "give a folder of your own that holds config.json and the weights")
    if not path.is_dir():
        if refusal := other_format_refusal(path):
            return _refused(path, *refusal)
        hint = "give the folder that holds config.json and the weights"
        parent = path.parent if (path.parent / "config.json").exists() else None
        return _refused(path, "is a file, not a folder", hint, instead=parent)
    try:
        facts = _look_into(path, allow_pickle=allow_pickle)
        return _with_complete_one(facts, path) if facts.problem and not facts.instead else facts
    except PermissionError as error:
        return _refused(path, f"may not be read ({error.filename})", "fix the permissions, or launch as its owner")


def _refused(path: Path, problem: str, hint: str, instead: Path | None = None) -> CheckpointFacts:
    return CheckpointFacts(reference=str(path), local=True, problem=problem, hint=hint, instead=instead)


def _with_complete_one(facts: CheckpointFacts, path: Path) -> CheckpointFacts:
    """The facts with the newest complete checkpoint in the folder: a killed run leaves incomplete ones behind."""
    folders = {each.parent for each in path.glob("*/config.json")}
    complete = next((each for each in sorted(folders, key=_age) if not _look_into(each).problem), None)
    if complete is None:
        return facts
    problem = f"is a folder of checkpoints ({len(folders)})" if not (path / "config.json").exists() else facts.problem
    return replace(facts, problem=problem, hint=f"use its newest complete one, `{complete}`", instead=complete)


def _age(folder: Path) -> tuple[int, float]:
    """Sort key, newest first: by the step in the name, else by time."""
    step = re.fullmatch(r".*-(\d+)", folder.name)
    return (-int(step[1]) if step else 0, -folder.stat().st_mtime)


def _look_into(path: Path, *, allow_pickle: bool = False) -> CheckpointFacts:
    for file in path.iterdir():
        if file.is_symlink() and (why := why_not_read(file)):
            return _refused(path, f"has {file.name}, which {why}", "replace the link by the file itself")
    if not (path / "config.json").exists():
        if refusal := adapter_refusal(path):
            return _adapter(path, refusal)
        if refusal := other_format_refusal(path):
            return _refused(path, *refusal)
        return _refused(path, "has no config.json", "give a checkpoint in Hugging Face format, which has one")
    return _parse(path, allow_pickle=allow_pickle)


def _parse(path: Path, *, allow_pickle: bool) -> CheckpointFacts:
    broken = "copy the checkpoint again: a file is broken"
    try:
        checkpoint = read_checkpoint(path)
    except PermissionError:
        raise
    except Unreadable as error:
        return _refused(path, *error.refusal)
    except OSError as error:
        return _refused(path, f"cannot be read: {error}", broken)
    if files := _weights_refusal(path, allow_pickle=allow_pickle) or _files_refusal(path, checkpoint.config):
        return _refused(path, *(adapter_refusal(path) or files))
    try:
        return _facts(checkpoint)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        return _refused(path, f"cannot be read: {error!r}", broken)


def _weights_refusal(path: Path, *, allow_pickle: bool) -> tuple[str, str] | None:
    """(problem, hint) of missing or refused weights."""
    convert = "convert it with `save_pretrained`, which writes safetensors"
    if not any(path.glob("*.safetensors")) and not (path / INDEX).exists():
        if not any(path.glob("*.bin")) and not any(path.glob("*.pt")) and not any(path.glob("*.pth")):
            return other_format_refusal(path) or ("has no weights (*.safetensors)", convert)
        if not allow_pickle:
            problem = "has only pickled weights (.bin), which can run code when they are read"
            trusted = "if you trust its author, `trainer_args: {allow-pickle: true}` reads it"
            return problem, f"{convert}; {trusted}"
        if not any(path.glob("pytorch_model*.bin")):
            return "has no weights that transformers finds (pytorch_model.bin)", convert
    return incomplete_refusal(path)


def _files_refusal(path: Path, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """(problem, hint) of the other files that a complete checkpoint has."""
    if not any((path / name).exists() for name in _TOKENIZERS):
        return "has no tokenizer", "copy tokenizer.json and tokenizer_config.json beside the weights"
    if broken := [name for name in _TOKENIZERS if name.endswith(".json") and _is_cut_off(path / name)]:
        return f"has a broken {broken[0]}", "copy the tokenizer again"
    if refusal := vocabulary_refusal(path):
        return refusal
    if not (config.get("model_type") or config.get("architectures")):
        return "has a config.json that names no model", "copy config.json again: it has no `model_type`"
    return None


def _is_cut_off(file: Path) -> bool:
    """Whether the file lacks the braces of a JSON object; a tokenizer of many MB is not parsed for that."""
    if not file.exists():
        return False
    with file.open("rb") as handle:
        start = handle.read(1)
        handle.seek(max(-64, -file.stat().st_size), os.SEEK_END)
        return start != b"{" or not handle.read().rstrip().endswith(b"}")


def _adapter(path: Path, refusal: Refusal) -> CheckpointFacts:
    base = read_json_object(path / "adapter_config.json").get("base_model_name_or_path")
    return _refused(path, *refusal, instead=Path(base) if isinstance(base, str) and Path(base).is_dir() else None)


def _facts(checkpoint: Checkpoint) -> CheckpointFacts:
    path, config, family = checkpoint.folder, checkpoint.config, family_of(checkpoint.config)
    kind = family.kind(config)
    quantization, positions = quantization_of(checkpoint), positions_of(checkpoint)
    template = _chat_template(path)
    sizes = facts_of_tensors(config, {} if quantization else checkpoint.tensors)
    return replace(
        sizes,
        reference=str(path),
        weight_bytes=_stored_bytes(checkpoint.tensors),
        refusal=refusal_of(checkpoint, family.kind),
        family=family,
        lifted=family.lifted(checkpoint),
        quantization=quantization,
        positions=positions,
        tokens=count_tokens(checkpoint),
        tokenizer_needs=tokenizer_needs(path),
        sees=kind.sees,
        text_alone=kind.text_alone,
        doubt=kind.doubt,
        library_type=library_type(kind.library_type) if kind.library_type else None,
        architecture=(config.get("architectures") or [config.get("model_type")])[0],
        context_length=positions.count if positions else None,
        has_chat_template=bool(template),
        shows_date="strftime_now" in template,
        own_code=_own_code(path),
        linked_files=links_out_of(path, (file for file in path.iterdir() if file.is_file())),
    )


def facts_of_tensors(config: Mapping[str, Any], tensors: Tensors) -> CheckpointFacts:
    """The facts that config.json and the headers of safetensors (name → header) give; none without tensors."""
    facts = CheckpointFacts(reference="", local=True)
    if not tensors:
        return facts
    linear = {name: tensor["shape"] for name, tensor in tensors.items() if _is_linear(name, tensor)}
    model_type, family = str(config.get("model_type") or ""), family_of(config)
    packed = (
        name
        for name in linear
        if EXPERT not in name and not name.removesuffix(".weight").endswith(family.not_quantised)
    )
    return replace(
        facts,
        parameters=sum(math.prod(tensor["shape"]) for tensor in tensors.values()),
        weight_bytes=_stored_bytes(tensors),
        model_type=model_type,
        family=family,
        linear_sides={name.removesuffix(".weight"): _sides(name, shape, model_type) for name, shape in linear.items()},
        linear_inputs={name.removesuffix(".weight"): shape[-1] for name, shape in linear.items() if EXPERT not in name},
        modules=_parameters_by_module(tensors),
        linear_parameters=sum(math.prod(linear[name]) for name in packed),
        dtype=_dtype(list(tensors.values())),
        shape=model_shape(config, [(name, tensor["shape"]) for name, tensor in tensors.items()]),
    )


def _parameters_by_module(tensors: Tensors) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    for name, tensor in tensors.items():
        counts[name.rpartition(".")[0] or name] += math.prod(tensor["shape"])
    return dict(counts)


def _stored_bytes(tensors: Tensors) -> int | None:
    stored = [tensor["data_offsets"] for tensor in tensors.values() if "data_offsets" in tensor]
    return sum(end - start for start, end in stored) or None


def _own_code(path: Path) -> str:
    """The name of the file that requires code from outside transformers; empty if none does."""
    for name in CONFIGS:
        try:
            config = json.loads((path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if asks_for_code(config):
            return name
    return ""


def _dtype(tensors: list[Mapping[str, Any]]) -> str:
    """The dtype of most parameters, such as BF16."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[str(tensor["dtype"])] += math.prod(tensor["shape"])
    return max(sizes, key=sizes.__getitem__)


def _is_linear(name: str, tensor: Mapping[str, Any]) -> bool:
    """Whether LoRA adapts this matrix."""
    others = ("embed", "lm_head", "wte", "wpe")
    sides = (2, 3) if EXPERT in name else (2,)
    is_matrix = name.endswith(".weight") or EXPERT in name  # states of Mamba are no layers
    return is_matrix and len(tensor["shape"]) in sides and not any(word in name for word in others)


def _sides(name: str, shape: list[int], model_type: str) -> int:
    """The adapter's parameters per rank: in + out, for all experts of a joined tensor with fused gate and up."""
    joined = model_type in JOINED and EXPERT in name and any(word in name for word in ("gate", "up", "w1", "w3"))
    if len(shape) == 3:
        return shape[0] * (shape[1] + shape[2]) * (2 if joined else 1)
    return sum(shape) + (shape[0] if joined else 0)


def _chat_template(path: Path) -> str:
    """The source of the chat template, of all of them if it has several; empty without one."""
    try:
        if (path / "chat_template.jinja").exists():
            return (path / "chat_template.jinja").read_text(encoding="utf-8", errors="replace") or " "
        config = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    found = config.get("chat_template") if isinstance(config, dict) else None
    return found if isinstance(found, str) else json.dumps(found) if found else ""
