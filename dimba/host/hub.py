"""Facts about an id on the Hugging Face Hub, fetched within seconds; the network never raises an exception."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import quote, urlencode

from dimba.common.checkpoint import context_length
from dimba.common.hub_cache import is_commit
from dimba.host.http import REFUSED, Answer, ask, count, mapping, mappings

_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


Status = Literal["found", "missing", "gated", "unreachable", "offline", "missing_config", "missing_split"]


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A model's facts, None if the Hub does not report them; with the status `gated` its files are refused."""

    id: str
    status: Status
    why: str = ""
    architecture: str | None = None
    parameters: int | None = None
    dtype: str | None = None  # of most parameters, such as BF16
    context_length: int | None = None  # tokens
    has_chat_template: bool | None = None
    gated: bool = False  # its files require approval, which this user may have


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """A data set's facts; a field that the Hub does not report is empty, and `why` gives the reason."""

    id: str
    status: Status
    why: str = ""
    configs: tuple[str, ...] = ()
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)  # config → splits
    config: str | None = None  # of `rows` and `first`
    split: str | None = None  # of `rows` and `first`
    rows: int | None = None  # an estimate if the Hub has not counted all rows; None for a slice
    first: dict[str, Any] | None = None
    truncated: tuple[str, ...] = ()  # columns of `first` that the Hub cut, and so returned as text
    gated: bool = False


def endpoint() -> str:
    """The Hub's address, without a slash at its end: HF_ENDPOINT, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def viewer() -> str:
    """The data set viewer's address, without a slash at its end; a plain http:// endpoint is its own viewer."""
    return endpoint().replace("https://", "https://datasets-server.", 1)


def look_at_model(id: str) -> HubModel:
    """Facts of the model `id`, such as `owner/name`. Never raises; takes at most a few times `http.TIMEOUT`."""
    status, why, body = _existence("models", id)
    config = ask(f"{endpoint()}/{quote(id)}/resolve/main/config.json").body if status == "found" else {}
    weights = mapping(body.get("safetensors"))
    sizes = {dtype: size for dtype, size in mapping(weights.get("parameters")).items() if count(size)}
    names = mapping(body.get("config")).get("architectures") or config.get("architectures")
    return HubModel(
        id=id,
        status=status,
        why=why,
        architecture=str(names[0]) if isinstance(names, list) and names else None,
        parameters=count(weights.get("total")) or sum(sizes.values()) or None,
        dtype=max(sizes, key=sizes.__getitem__, default=None),
        context_length=context_length(config),
        has_chat_template=_has_chat_template(body),
        gated=status == "gated" or bool(body.get("gated")),
    )


def look_at_dataset(id: str, config: str | None = None, split: str | None = None) -> HubDataset:
    """Facts of a data set; `split` may be `train[:10%]`. Never raises; takes at most a few times `http.TIMEOUT`."""
    status, why, body = _existence("datasets", id)
    found = HubDataset(id=id, status=status, why=why, gated=status == "gated" or bool(body.get("gated")))
    if status != "found":
        return found
    listed = _viewer("splits", dataset=id)
    splits = _splits(listed.body)
    found = replace(found, configs=tuple(splits), splits=splits, why=_unknown("splits", listed))
    config = config or ("default" if "default" in splits else next(iter(splits), None))
    known = splits.get(config or "", ())
    split = split or ("train" if "train" in known else next(iter(known), None))
    checked = _checked(found, config, split)
    if checked.status != "found" or not (listed.status and config and split):
        return checked
    return _with_rows(found, config, split)


def commit_of(kind: str, id: str, revision: str | None = None) -> str | None:
    """The commit of a repository of the kind `models` or `datasets`; None if the Hub does not report it.

    It is that of a tag, a branch or a commit named `revision`, else the newest.
    """
    if revision and is_commit(revision):
        return revision
    status, _, body = _existence(kind, id, f"/revision/{quote(revision, '')}" if revision else "")
    sha = body.get("sha")
    return sha if status == "found" and isinstance(sha, str) else None


def _checked(found: HubDataset, config: str | None, split: str | None) -> HubDataset:
    if found.configs and config not in found.configs:
        return replace(found, status="missing_config", why=f"no config `{config}`; there are {_named(found.configs)}")
    known = found.splits.get(config or "", ())
    wrong = [name for name in _split_names(split) if known and name not in known]
    if wrong:
        return replace(found, status="missing_split", why=f"no split `{wrong[0]}`; there are {_named(known)}")
    return found


def _with_rows(found: HubDataset, config: str, split: str) -> HubDataset:
    name = next(iter(_split_names(split) or found.splits.get(config, ())), split)
    answer = _viewer("first-rows", dataset=found.id, config=config, split=name)
    entry = next(iter(mappings(answer.body.get("rows"))), {})
    cut = entry.get("truncated_cells")
    return replace(
        found,
        why=found.why or _unknown("first row", answer),
        config=config,
        split=split,
        rows=_rows(_viewer("size", dataset=found.id).body, config, split),
        first=mapping(entry.get("row")) or None,
        truncated=tuple(map(str, cut)) if isinstance(cut, list) else (),
    )


def _existence(kind: str, id: str, below: str = "") -> tuple[Status, str, dict[str, Any]]:
    """(status, why, the Hub's JSON) of one id, or of an address `below` it."""
    if any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in _OFFLINE):
        return "offline", f"{' or '.join(_OFFLINE)} is set", {}
    if not id.isprintable() or id.count("/") > 1 or {"", ".", ".."} & set(id.strip().split("/")):
        return "missing", "a Hub id is `owner/name`", {}
    address = f"{endpoint()}/api/{kind}/{quote(id)}"
    answer = ask(f"{address}{below}")
    if answer.body.get("gated"):
        # The facts of a gated repository are public, its files are not.
        access = ask(f"{address}/auth-check")
        if access.status in (401, 403):
            return *_verdict(replace(access, code="GatedRepo")), answer.body
    return *_verdict(answer), answer.body


def _verdict(answer: Answer) -> tuple[Status, str]:
    token = bool(os.environ.get("HF_TOKEN"))
    if answer.status == 200:
        return "found", ""
    if answer.status == 403 or answer.code == "GatedRepo":
        cause = "HF_TOKEN's account may not have it" if token else "HF_TOKEN is not set"
        return "gated", f"it is gated, and {cause}: ask for access on its page"
    if answer.status in REFUSED:
        cause = "or HF_TOKEN's account may not see it" if token else "or it is private, and HF_TOKEN is not set"
        return "missing", f"the Hub has none of this name, {cause}"
    return "unreachable", f"the Hub did not answer: {answer.why}"


def _viewer(path: str, **query: str) -> Answer:
    return ask(f"{viewer()}/{path}?{urlencode(query, errors='replace')}")


def _splits(body: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Config → splits; a config that the viewer cannot read, or has not read yet, has none."""
    found: dict[str, list[str]] = {}
    for entry in (entry for key in ("splits", "pending", "failed") for entry in mappings(body.get(key))):
        config, split = entry.get("config"), entry.get("split")
        if isinstance(config, str):
            found.setdefault(config, []).extend([split] if isinstance(split, str) else [])
    return {config: tuple(names) for config, names in found.items()}


def _split_names(split: str | None) -> list[str]:
    """The names in a split expression: `train[:10%]+test` → train, test; empty for `all`, which means every split."""
    names = [part.partition("[")[0].strip() for part in (split or "").split("+")]
    return [name for name in names if name not in ("", "all")]


def _rows(body: dict[str, Any], config: str, split: str) -> int | None:
    for entry in mappings(mapping(body.get("size")).get("splits")):
        if (entry.get("config"), entry.get("split")) == (config, split):
            return count(entry.get("estimated_num_rows")) or count(entry.get("num_rows"))
    return None


def _has_chat_template(body: dict[str, Any]) -> bool | None:
    config, files = mapping(body.get("config")), [entry.get("rfilename") for entry in mappings(body.get("siblings"))]
    tokenizer = config.get("tokenizer_config")
    if "chat_template.jinja" in files or config.get("chat_template_jinja") or mapping(tokenizer).get("chat_template"):
        return True
    known = isinstance(tokenizer, dict) or (files and "tokenizer_config.json" not in files)
    return False if known else None


def _unknown(what: str, answer: Answer) -> str:
    return "" if answer.status == 200 else f"the Hub does not report its {what}: {answer.why}"


def _named(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
