"""Ways to spoil the folder of a merged model, each as a known fault of an exporter leaves it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def tensors(folder: Path) -> Tensors:
    """All tensors of a folder."""
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def with_tensors(change: Callable[[Tensors, Tensors], None]) -> Callable[[Path, Path], None]:
    """A spoiling that changes the tensors of an export, given those of the base."""

    def spoil(folder: Path, base: Path) -> None:
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "pt") as stored:
                found = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            change(found, tensors(base))
            save_file(found, file, metadata={"format": "pt"})

    return spoil


def with_json(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path, Path], None]:
    """A spoiling that changes a JSON file."""

    def spoil(folder: Path, _base: Path) -> None:
        value = json.loads((folder / name).read_text("utf-8"))
        change(value)
        (folder / name).write_text(json.dumps(value), "utf-8")

    return spoil


def adapted(found: Tensors, base: Tensors) -> list[str]:
    """The names of the tensors that the adapter has changed."""
    same = (name for name in found if name in base and found[name].shape == base[name].shape)
    return sorted(name for name in same if not torch.equal(found[name], base[name].to(found[name].dtype)))


def _layer(found: Tensors, base: Tensors) -> list[str]:
    names = adapted(found, base)
    first = names[0].split(".")
    layer = ".".join(first[: next(n for n, part in enumerate(first) if part.isdigit()) + 1])
    return [name for name in names if name.startswith(f"{layer}.")]


def _skip_layer(found: Tensors, base: Tensors) -> None:
    for name in _layer(found, base):
        found[name] = base[name].to(found[name].dtype)


def _skip_all(found: Tensors, base: Tensors) -> None:
    for name in adapted(found, base):
        found[name] = base[name].to(found[name].dtype)


def _scaled(factor: float) -> Callable[[Tensors, Tensors], None]:
    def change(found: Tensors, base: Tensors) -> None:
        for name in adapted(found, base):
            old = base[name].float()
            found[name] = (old + factor * (found[name].float() - old)).to(found[name].dtype)

    return change


def _transpose(found: Tensors, base: Tensors) -> None:
    for name in adapted(found, base):
        added = found[name].float() - base[name].float()
        if added.dim() == 2 and added.shape[0] == added.shape[1]:
            found[name] = (base[name].float() + added.T).to(found[name].dtype)


def _skip_matrix(found: Tensors, base: Tensors) -> None:
    name = adapted(found, base)[-1]
    found[name] = base[name].to(found[name].dtype)


def _drop(found: Tensors, base: Tensors) -> None:
    del found[next(name for name in sorted(found) if "norm" in name or "ln_" in name)]


def _zero_row(found: Tensors, base: Tensors) -> None:
    name = next(name for name in sorted(found) if "embed" in name or "wte" in name)
    found[name][5] = 0


def _noise(found: Tensors, base: Tensors) -> None:
    name = adapted(found, base)[0]
    found[name] = (found[name].float() + 0.01 * torch.randn(found[name].shape)).to(found[name].dtype)


def _nan(found: Tensors, base: Tensors) -> None:
    found[adapted(found, base)[0]].view(-1)[0] = torch.nan


def _swap(found: Tensors, base: Tensors) -> None:
    one, two, *_ = [name for name in adapted(found, base) if found[name].shape == found[adapted(found, base)[0]].shape]
    found[one], found[two] = found[two].clone(), found[one].clone()


def _coarse(found: Tensors, base: Tensors) -> None:
    for name in adapted(found, base):
        step = found[name].float().abs().max() / 127
        found[name] = ((found[name].float() / step).round() * step).to(found[name].dtype)


def _another_template(folder: Path, _base: Path) -> None:
    text = (folder / "chat_template.jinja").read_text("utf-8")
    (folder / "chat_template.jinja").write_text(text.replace("<|{{ message['role'] }}|>", "{{ message['role'] }}:"))


def _no_generation_prompt(folder: Path, _base: Path) -> None:
    text = (folder / "chat_template.jinja").read_text("utf-8")
    (folder / "chat_template.jinja").write_text(text.replace("{% if add_generation_prompt %}", "{% if false %}"))


def _no_template(folder: Path, _base: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def _doubled_begin(folder: Path, _base: Path) -> None:
    text = (folder / "chat_template.jinja").read_text("utf-8")
    (folder / "chat_template.jinja").write_text("{{ bos_token }}" + text)


def _no_end(value: dict[str, Any]) -> None:
    value.pop("eos_token_id", None)


def _other_end(value: dict[str, Any]) -> None:
    value["eos_token_id"] = 0


def _one_more_end(value: dict[str, Any]) -> None:
    old = value["eos_token_id"]
    value["eos_token_id"] = [*(old if isinstance(old, list) else [old]), 7]


def _swap_tokens(value: dict[str, Any]) -> None:
    words = value["model"]["vocab"]
    one, two = list(words)[-2:]
    words[one], words[two] = words[two], words[one]


def _lose_token(value: dict[str, Any]) -> None:
    words = value["model"]["vocab"]
    lost = list(words)[-1]
    del words[lost]
    value["model"]["merges"] = [each for each in value["model"]["merges"] if "".join(each) != lost]


def _add_token(value: dict[str, Any]) -> None:
    new = dict(value["added_tokens"][-1], id=len(value["model"]["vocab"]), content="<|new|>")
    value["added_tokens"].append(new)


def _end_in_text(value: dict[str, Any]) -> None:
    value["added_tokens"] = [each for each in value["added_tokens"] if each["content"] != "<|user|>"]


def _double_context(value: dict[str, Any]) -> None:
    name = next(name for name in ("max_position_embeddings", "n_positions") if name in value)
    value[name] *= 2


SPOILINGS: dict[str, Callable[[Path, Path], None]] = {
    "a layer without its adapter": with_tensors(_skip_layer),
    "a matrix without its adapter": with_tensors(_skip_matrix),
    "no adapter at all": with_tensors(_skip_all),
    "half the scale": with_tensors(_scaled(0.5)),
    "twice the scale": with_tensors(_scaled(2.0)),
    "a scale 5 % too large": with_tensors(_scaled(1.05)),
    "the adapter subtracted": with_tensors(_scaled(-1.0)),
    "the adapter transposed": with_tensors(_transpose),
    "a norm dropped": with_tensors(_drop),
    "a row of the embedding zero": with_tensors(_zero_row),
    "noise in a matrix": with_tensors(_noise),
    "a value that is no number": with_tensors(_nan),
    "two matrices exchanged": with_tensors(_swap),
    "matrices rounded to 8 bits": with_tensors(_coarse),
    "another context": with_json("config.json", _double_context),
    "another template": _another_template,
    "no generation prompt": _no_generation_prompt,
    "no template": _no_template,
    "the begin token twice": _doubled_begin,
    "no end token": with_json("generation_config.json", _no_end),
    "another end token": with_json("generation_config.json", _other_end),
    "one end token more": with_json("generation_config.json", _one_more_end),
    "two tokens exchanged": with_json("tokenizer.json", _swap_tokens),
    "a token lost": with_json("tokenizer.json", _lose_token),
    "a token added": with_json("tokenizer.json", _add_token),
    "a control token as text": with_json("tokenizer.json", _end_in_text),
}
