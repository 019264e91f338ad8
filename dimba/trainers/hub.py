"""The Hugging Face Hub, asked once before its libraries are: they repeat a request without an answer for minutes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from dimba.common.checkpoint.files import PICKLED_INDEX, SINGLE, indexed_files
from dimba.common.contract import is_path
from dimba.common.errors import BadInput, HostCannot, first_line
from dimba.common.hub_cache import folder_name
from dimba.dataset.mixture import data_sets
from dimba.options.trainer import TrainerOptions

Options = TypeVar("Options", bound=TrainerOptions)

# huggingface_hub takes 0.2 s to import, which a job without a Hub id does not need.
_SECONDS = 5.0  # for one request, the name lookup included
_LONGEST_WAIT = 3.0  # seconds before the second and last request
_NO_ANSWER = (407, 408, 429, 500, 502, 503, 504)  # statuses of a proxy, or on which the libraries try again
_PICKLED = "pytorch_model.bin"
_SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py"]
_WEIGHTS = ["*.safetensors"]
_OTHER_FORMATS = ["consolidated*", "original/*", "onnx/*", "openvino/*", "coreml/*"]
_TOKENIZER = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")
_HINT = (
    "restore the network (behind a proxy, set HTTPS_PROXY; a mirror's address is HF_ENDPOINT), or download on another "
    "machine, with `hf download {id}{kind}`, and give the folder in place of the id"
)


def use_cache_if_unreachable(options: TrainerOptions, *, weights: bool = True) -> str:
    """Switch the libraries to the cached copies if the Hub does not answer; returns a line that says so, or "".

    Nothing is requested if no Hub id is named, or HF_HUB_OFFLINE is set. Takes 10 s at most. A preview of the data
    does not need `weights`.

    Raises:
        HostCannot: the Hub does not answer, and the cache lacks a file of what is named.
    """
    models = [each for each in options.model_checkpoints if not is_path(each)]
    data = [each for each in data_sets(options.dataset, options.mixture) if each and not is_path(each)]
    if not (models or data) or _is_offline():
        return ""
    if not (why := _problem(models[0] if models else f"datasets/{data[0]}")):
        return ""
    for model in models:
        revision = options.base_revision if model == options.base_checkpoint else None
        lacking = _lacking_of_model(_snapshot(model, revision or "main"), weights=weights, pickled=options.allow_pickle)
        _refuse(model, "", why, lacking, _flag_of(model, options))
    for name in data:
        _refuse(name, " --repo-type dataset", why, "" if _is_prepared(name) else "no copy of it", "--dataset")
    _go_offline()
    return f"{_endpoint()} does not answer ({why}): using the cached copy of {' and of '.join([*models, *data])}"


def at_revision(options: Options, *, weights: bool = True) -> Options:
    """The options with a folder of the cache in place of a base on the Hub at a revision, which is fetched.

    A folder is what every library loads the same, whichever of the base's files it reads. Without `weights`, only the
    configuration and the tokenizer.

    Raises:
        BadInput: the Hub has no such revision.
        HostCannot: it cannot be fetched.
    """
    if not options.base_revision or is_path(options.base_checkpoint):
        return options
    from huggingface_hub import errors, snapshot_download

    base, revision = options.base_checkpoint, options.base_revision
    kinds = _SMALL_FILES + (_WEIGHTS + ["*.bin"] * options.allow_pickle if weights else [])
    try:
        folder = snapshot_download(base, revision=revision, allow_patterns=kinds, ignore_patterns=_OTHER_FORMATS)
    except (errors.RevisionNotFoundError, errors.RepositoryNotFoundError) as error:
        hint = "correct `base_revision`, or leave it out for the newest commit"
        raise BadInput(f"{base} has no revision {revision} on the Hub", hint, key="--base-revision") from error
    except (OSError, ValueError) as error:
        hint = _HINT.format(id=base, kind=f" --revision {revision}")
        raise HostCannot(f"{base} at {revision}: {first_line(error)}", hint, key="--base-revision") from error
    return replace(options, base_checkpoint=folder)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return constants.is_offline_mode()


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _go_offline() -> None:
    """As HF_HUB_OFFLINE, for the libraries that are imported later and for huggingface_hub, which is already."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def _problem(name: str) -> str:
    """Why the Hub does not answer; empty if it does. A request that fails within a moment is made once more."""
    found, wait = _ask(name)
    if found and wait <= _LONGEST_WAIT:
        time.sleep(wait)
        found, _ = _ask(name)
    return found


def _ask(name: str) -> tuple[str, float]:
    """(why there is no answer or "", seconds to wait before another request)."""
    answers: list[tuple[str, float]] = []
    # A timeout of the library covers neither the name lookup nor several addresses of one name.
    thread = threading.Thread(target=lambda: answers.append(_request(name)), daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return answers[0] if answers else (f"no answer within {_SECONDS:g} s", _LONGEST_WAIT + 1)


def _request(name: str) -> tuple[str, float]:
    """Make the libraries' own first request, through their client: with their proxies, certificates and token."""
    from huggingface_hub.utils import build_hf_headers, get_session

    try:
        address = f"{_endpoint()}/{name}/resolve/main/{'README.md' if name.startswith('datasets/') else 'config.json'}"
        answer = get_session().head(address, headers=build_hf_headers(), timeout=_SECONDS, follow_redirects=False)
    except Exception as error:  # whatever it is, the libraries would meet it too
        return first_line(error)[:200], 1.0
    if answer.status_code not in _NO_ANSWER:
        return "", 0.0
    wait = answer.headers.get("Retry-After", "")
    why = f"HTTP {answer.status_code}{wait and f', Retry-After: {wait}'}"
    return why, float(wait or 1) if wait.isdecimal() or not wait else _LONGEST_WAIT + 1


def _flag_of(model: str, options: TrainerOptions) -> str:
    return "--base-checkpoint" if model == options.base_checkpoint else "--reward-model"


def _refuse(name: str, kind: str, why: str, lacking: str, flag: str) -> None:
    if lacking:
        problem = f"{name} is no path here, so a Hub id; {_endpoint()} does not answer ({why}), the cache has {lacking}"
        raise HostCannot(problem, _HINT.format(id=name, kind=kind), key=flag)


def _snapshot(model: str, revision: str) -> Path:
    """The folder of the cached revision that the libraries use offline; it may not exist."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE, folder_name("models", model))
    try:
        return folder / "snapshots" / (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        return folder / "snapshots" / revision


def _lacking_of_model(folder: Path, *, weights: bool, pickled: bool) -> str:
    """What a cached model lacks, in words after "has"; empty if it is complete."""
    if not folder.is_dir():
        return "no copy of it"
    files = ["config.json", *(_weight_files(folder, pickled=pickled) if weights else ())]
    missing = [name for name in files if not (folder / name).is_file()]
    if not any(path.is_file() for pattern in _TOKENIZER for path in folder.glob(pattern)):
        missing.append("its tokenizer")
    return f"only a part of it, without {missing[0]}" if missing else ""


def _weight_files(folder: Path, *, pickled: bool) -> Iterator[str]:
    """The names of the files of weights, of which some may not be there."""
    listed = [] if (folder / SINGLE).is_file() else indexed_files(folder)
    if not listed and pickled and not (folder / SINGLE).is_file():
        listed = indexed_files(folder, PICKLED_INDEX) or ([_PICKLED] if (folder / _PICKLED).is_file() else [])
    yield from listed or [SINGLE]


def _is_prepared(name: str) -> bool:
    """Whether `datasets` has a copy of the data set, in any configuration: an offline load names one that it lacks."""
    from huggingface_hub import constants

    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets")).expanduser()
    wanted = _plain(name.replace("/", ""))
    folders = [each for each in cache.glob("*") if _plain(each.name) == wanted]  # `owner___its_name` of owner/ItsName
    infos = (info for folder in folders for info in folder.glob("*/*/*/dataset_info.json"))
    return any(not info.parent.name.endswith(".incomplete") for info in infos)


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
