"""What answers: transformers in the process that `dimba chat` uses, or vLLM's own server behind a Unix socket."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from dimba.commands.serve.model import ServedModel
from dimba.commands.talk.session import ModelSession, model_session
from dimba.common.checkpoint.adapter import CONFIG
from dimba.common.contract import read_json_object
from dimba.common.errors import BadInput, HostCannot
from dimba.common.inference import TRANSFORMERS, VLLM
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.model_place import gpus_for
from dimba.jobs.model_source import ModelSource

_MODULE = "dimba.trainers.inference.vllm_server"
_IMAGE = "-vllm"
_MOST_RANK = 512
_MERGE = "serve a merged export, or leave out `--engine`"
# Settings of an adapter that vLLM refuses, or would ignore.
_UNKNOWN_TO_VLLM = (
    "use_dora", "modules_to_save", "trainable_token_indices", "rank_pattern", "alpha_pattern", "layer_replication",
    "target_parameters",
)  # fmt: skip


def loaded(
    engine: str, source: ModelSource, model: ServedModel, reporter: Reporter
) -> AbstractContextManager[ModelSession]:
    """The model of `source`, loaded, so that `model` answers; waits for its GPU's turn. Raises DimbaError."""
    return _ENGINES[engine](source, model, reporter)


@contextmanager
def _with_transformers(source: ModelSource, model: ServedModel, reporter: Reporter) -> Iterator[ModelSession]:
    with model_session(source, "serve", reporter, on_end=model.ended.set) as session:
        model.session = session
        yield session


@contextmanager
def _with_vllm(source: ModelSource, model: ServedModel, reporter: Reporter) -> Iterator[ModelSession]:
    check_vllm(source)
    folder = Path(tempfile.mkdtemp(prefix="dimba-serve-"))  # short, as the path of a socket has to be
    if os.geteuid() == 0:
        os.chown(folder, source.facts.output.uid, source.facts.output.gid)
    place = folder / "socket"
    try:
        with model_session(
            source,
            "serve",
            reporter,
            on_end=model.ended.set,
            module=_MODULE,
            image=_IMAGE,
            writable=(folder,),
            load={"socket": str(place), "name": model.name},
        ) as session:
            model.backend = place
            yield session
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_ENGINES = {TRANSFORMERS: _with_transformers, VLLM: _with_vllm}


def check_vllm(source: ModelSource) -> None:
    """Raises BadInput or HostCannot where vLLM cannot serve a model as it was trained."""
    if source.trained.gguf:
        raise BadInput("vLLM does not serve GGUF files well", "leave out `--engine`", file=source.trained.gguf)
    if gpus_for(source) is None:
        raise HostCannot("vLLM needs a GPU", "leave out `--engine`: transformers serves on the CPU too")
    if source.trained.four_bit:
        raise BadInput("vLLM quantises a base in another way than training did", _MERGE)
    config = read_json_object(source.folder / CONFIG) if source.trained.is_adapter else {}
    unknown = [key for key in _UNKNOWN_TO_VLLM if config.get(key)]
    unknown += ["bias"] if config.get("bias", "none") != "none" else []
    if unknown:
        raise BadInput(f"vLLM does not know `{unknown[0]}` of this adapter", _MERGE, file=source.folder / CONFIG)
    if int(config.get("r") or 0) > _MOST_RANK:
        raise BadInput(f"vLLM takes adapters up to rank {_MOST_RANK}", _MERGE, file=source.folder / CONFIG)
