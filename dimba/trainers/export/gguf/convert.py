"""A merged model as a GGUF file: llama.cpp's converter, then its quantiser."""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

from dimba.common.errors import BadInput, HostCannot
from dimba.common.units import size
from dimba.trainers.export.gguf.engine import LlamaModel
from dimba.trainers.export.gguf.kinds import KINDS, Kind
from dimba.trainers.export.gguf.known import recognised
from dimba.trainers.export.gguf.processes import follow
from dimba.trainers.export.gguf.stage import staged

Report = Callable[[str], None]
_PERCENT = re.compile(r"Writing:\s+(\d+)%")
_MARGIN = 64 * 2**20


def convert(model_folder: Path, out_file: Path, kind: str, progress: Report) -> None:
    """Writes the model in Hugging Face format as `out_file`, a GGUF of type `kind`: complete, or not at all.

    Raises:
        BadInput: an unknown type, or a model or tokenizer that llama.cpp does not know.
        HostCannot: llama.cpp is not here, or the disk is too small.
    """
    target = _kind(kind)
    recipe = recognised(model_folder)
    if recipe.problem:
        raise BadInput(recipe.problem, recipe.hint)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    first = target if target.number is None else KINDS[_stored_as(model_folder)]
    _require_room(model_folder, out_file.parent, [first, target] if first is not target else [target])
    with staged(model_folder, out_file.parent, prefix_space=recipe.prefix_space) as folder:
        written = folder.parent / f"{first.name}.gguf"
        arguments = ["convert", str(folder), str(written), first.name, *recipe.arguments(out_file.stem)]
        _convert(arguments, first, progress)
        if first is not target:
            written = _quantised(written, folder.parent / f"{target.name}.gguf", target, progress)
        _require_loadable(written)
        written.replace(out_file)


def _require_loadable(file: Path) -> None:
    """A converter that misses a weight does not report it."""
    try:
        LlamaModel(file).close()
    except BadInput as error:
        raise BadInput(f"the converted model is not complete: {error.cause}", "check the model's weights") from None


def _kind(name: str) -> Kind:
    if name.lower() not in KINDS:
        raise BadInput(f"`{name}` is no type of GGUF that dimba writes", f"one of {', '.join(KINDS)}")
    return KINDS[name.lower()]


def _convert(arguments: Sequence[str], kind: Kind, progress: Report) -> None:
    doing = f"converting to {kind.label}"
    progress(doing)
    last = ""
    for line in follow(arguments, "llama.cpp's converter failed"):
        match = _PERCENT.search(line)
        if match and match[1] != last:
            last = match[1]
            progress(f"{doing}: {last} %")


def _quantised(source: Path, target: Path, kind: Kind, progress: Report) -> Path:
    progress(f"quantising to {kind.label}")
    for _line in follow(["quantise", str(source), str(target), str(kind.number)], "llama.cpp's quantiser failed"):
        pass
    source.unlink()
    return target


def _stored_as(model_folder: Path) -> str:
    """The type from which to quantise: that of the largest weights."""
    from safetensors import safe_open

    sizes: Counter[str] = Counter()
    for file in model_folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118  # it is no dictionary
                part = weights.get_slice(name)
                sizes[part.get_dtype()] += prod(part.get_shape())
    largest = max(sizes, key=lambda name: sizes[name], default="F32")
    return {"BF16": "bf16", "F16": "f16"}.get(largest, "f32")


def _require_room(model_folder: Path, folder: Path, kinds: Sequence[Kind]) -> None:
    bits = {"bf16": 16, "f16": 16}.get(_stored_as(model_folder), 32)
    weights = sum(file.stat().st_size for file in model_folder.glob("*.safetensors")) * 8 / bits
    needed = int(sum(weights * kind.bits / 8 for kind in kinds)) + _MARGIN
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise HostCannot(
            f"{folder} has {size(free)} free, the GGUF needs {size(needed)} while it is made",
            "free some space, or name another folder",
        )
