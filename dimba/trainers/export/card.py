"""The model card: base, data, settings, results, the proof's numbers, and how to load the model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.repocard import metadata_load

from dimba.common.contract import is_path
from dimba.objectives.families import CAUSAL
from dimba.objectives.family import Family

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/")
_OWN_TAGS = ("base_model:", "region:", "license:", "dataset:", "endpoints_compatible", "autotrain_compatible")
_NUMBERS = {
    "rows": "rows",
    "positions": "positions",
    "agreement": "equal likeliest tokens",
    "kl_mean": "KL divergence, mean (nats)",
    "kl_max": "KL divergence, largest (nats)",
    "logits_max_difference": "largest difference of a logit",
    "adapter_share": "least share of the adapter's change in a matrix",
}


def base_name(reference: str) -> str:
    """The base as others find it: its id on the Hub, else the name of its folder; never a path of this machine."""
    if cached := _CACHED.search(reference):
        return f"{cached[1]}/{cached[2]}"
    if is_path(reference):
        return re.sub(r"[^\w.-]", "-", Path(reference).expanduser().name) or "base"
    return reference


def base_metadata(reference: str) -> dict[str, Any]:
    """The metadata of the base's own card; empty without one."""
    if not is_path(reference):
        return {}
    try:
        found = metadata_load(Path(reference).expanduser() / "README.md")
    except Exception:  # a card is a text of its author's
        return {}
    return found if isinstance(found, dict) else {}


def card(
    record: Mapping[str, Any], about: Mapping[str, Any], base: str, settings: Mapping[str, Any], family: Family = CAUSAL
) -> str:
    """The text of README.md for an export with this record; `settings` are values that its template needs."""
    metadata = base_metadata(base)
    data = ModelCardData(
        license=_text(metadata.get("license")),
        license_name=_text(metadata.get("license_name")),
        license_link=_text(metadata.get("license_link")),
        language=metadata.get("language"),
        base_model=base_name(base),
        library_name="transformers" if record["kind"] == "merged" else "gguf",
        pipeline_tag=_text(metadata.get("pipeline_tag")) or "text-generation",
        tags=_tags(metadata),
        datasets=_data_ids(about) or None,
    )
    lines = [f"---\n{data.to_yaml()}\n---", "", f"# {about.get('title') or 'A fine-tuned model'}", ""]
    lines += [f"Fine-tuned from `{base_name(base)}`{_how(about)} with dimba.", ""]
    if not metadata.get("license"):
        lines += ["The base's card names no licence: its author's terms hold for this model too.", ""]
    for title, body in (
        ("How to load it", _loading(record, about, family)),
        ("Data", _data(about)),
        ("Settings", _table(about.get("settings") or {}, "setting", "value")),
        ("Results", _table(about.get("results") or {}, "result", "value")),
        ("Proof", _proof(record)),
        ("Chat template", _template(settings)),
    ):
        text = list(body)
        lines += [f"## {title}", "", *text, ""] if text else []
    return "\n".join(lines).rstrip() + "\n"


def _data_ids(about: Mapping[str, Any]) -> list[str]:
    names = [str(each.get("name")) for each in about.get("data") or ()]
    return [name for name in names if _HUB_NAME.fullmatch(name)]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _tags(metadata: Mapping[str, Any]) -> list[str]:
    tags = metadata.get("tags")
    kept = [each for each in tags if isinstance(each, str)] if isinstance(tags, list) else []
    return list(dict.fromkeys([*(each for each in kept if not each.startswith(_OWN_TAGS)), "dimba"]))


def _how(about: Mapping[str, Any]) -> str:
    mode, method = about.get("mode"), about.get("method")
    return f" by {mode}, {method}," if mode and method else ""


def _loading(record: Mapping[str, Any], about: Mapping[str, Any], family: Family) -> Iterator[str]:
    place = about.get("hub") or "path/to/this/folder"
    code = ", trust_remote_code=True" if family.by_code else ""
    if record["kind"] != "merged":
        file = next((name for name in record.get("files") or () if str(name).endswith(".gguf")), "model.gguf")
        yield f"```bash\nllama-server -m {file} --jinja\n```"
        return
    yield "```python"
    yield from [f"import {family.registers}  # its classes, which come with dimba"] if family.registers else []
    yield f"from transformers import {family.auto_class}, AutoTokenizer"
    yield ""
    yield f'tokenizer = AutoTokenizer.from_pretrained("{place}"{code})'
    yield f'model = {family.auto_class}.from_pretrained("{place}", dtype="auto"{code})'
    if not family.generates:
        flag = " --trust-remote-code" if family.by_code else ""
        yield f"```\n\nIt is {family.label}: `dimba chat {place}{flag}` talks to it."
        return
    yield 'chat = [{"role": "user", "content": "Hello"}]'
    yield 'made = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}'
    yield "inputs = tokenizer.apply_chat_template(chat, **made)"
    yield "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=200)[0]))"
    yield "```"


def _data(about: Mapping[str, Any]) -> Iterator[str]:
    for each in about.get("data") or ():
        digest = f", `{each['hash']}`" if each.get("hash") else ""
        yield f"- `{each.get('name')}`{digest}"


def _proof(record: Mapping[str, Any]) -> Iterator[str]:
    proof = record.get("proof") or {}
    if "rows" not in proof:
        return
    yield f"The exported files were loaded again and compared with the trained model on {proof.get('data', 'rows')}."
    yield ""
    yield from _table({_NUMBERS[name]: proof[name] for name in _NUMBERS if name in proof}, "measured", "value")
    equal = [name.removesuffix("_equal") for name in proof if name.endswith("_equal") and proof[name] is True]
    yield ""
    yield f"Equal: {', '.join(each.replace('_', ' ') for each in equal)}."


def _table(values: Mapping[str, Any], one: str, two: str) -> Iterator[str]:
    if values:
        yield f"| {one} | {two} |"
        yield "| --- | --- |"
        yield from (f"| {name} | {_shown(value)} |" for name, value in values.items())


def _shown(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _template(settings: Mapping[str, Any]) -> Iterator[str]:
    if settings:
        yield "It was trained with these arguments of the chat template:"
        yield ""
        yield from (f"- `{name}`: `{value}`" for name, value in settings.items())
