"""One export, or one check, from the loaded model to the proven folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dimba.common.contract import read_json_object
from dimba.common.errors import BadInput, DimbaError, HostCannot
from dimba.trainers.export.agreement import Progress, compare, logits_of_rows
from dimba.trainers.export.card import card
from dimba.trainers.export.memory import compare_with_memory
from dimba.trainers.export.placement import choose_loading, parameter_count
from dimba.trainers.export.proof import Proof, Reference, prove_merged, reference_of, refusal, vocabulary_size
from dimba.trainers.export.record import changed_file, export_record, write_record
from dimba.trainers.export.request import Request
from dimba.trainers.export.rows import proof_rows
from dimba.trainers.export.write import write_merged
from dimba.trainers.models.checkpoints import means_full_disk
from dimba.trainers.models.families import family_at
from dimba.trainers.models.trained import load_trained

if TYPE_CHECKING:
    from dimba.trainers.models.trained import Loaded

Note = Callable[[str], None]
_MERGED = "merged"


def run(request: Request, progress: Progress, note: Note) -> dict[str, Any]:
    """Export, or check an export; returns the content of export.json, of a check its proof.

    Raises:
        BadInput: the model cannot be loaded, or not be written as asked.
        RunFailed: the export is not what was trained; nothing is left in the target.
        HostCannot: the disk is full.
    """
    try:
        return _check(request, progress, note) if request.check else _export(request, progress, note)
    except BaseException as error:
        if not request.check:
            _empty(request.target)
        if isinstance(error, torch.OutOfMemoryError):
            hint = "`--gpus none` exports on the CPU; `--gpus 1` with a larger GPU is quicker"
            raise HostCannot("the GPU has too little memory for the model and its export", hint) from error
        if not isinstance(error, DimbaError) and means_full_disk(error):
            raise _full_disk(request.target) from error
        raise


def _full_disk(target: Path) -> DimbaError:
    return HostCannot(f"the disk of {target} is full", "free space on it, or give `--out` on another disk")


def _empty(folder: Path) -> None:
    for each in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()


def _reference(request: Request, progress: Progress, note: Note) -> Reference:
    """The trained model on its base in the base's own precision, and what it computes."""
    trained = replace(request.trained, four_bit=False)
    progress("loading the trained model", 0, 1)
    loaded = load_trained(trained, choose_loading(trained, parameter_count(trained)))
    rows = proof_rows(loaded, request.argv, _base(request), vocabulary_size(loaded.model))
    if rows.note:
        note(f"{rows.note}; the proof uses {rows.source}")
    found = compare_with_memory(_as_trained(request, loaded), request.likeliest, progress)
    return replace(reference_of(loaded, rows, progress), in_memory=found)


def _as_trained(request: Request, loaded: Loaded) -> Loaded:
    """The model on the quantised base, if it was trained on one and that is needed."""
    if not (request.trained.four_bit and request.likeliest):
        return loaded
    return load_trained(request.trained, choose_loading(request.trained, 0))


def _base(request: Request) -> str:
    return request.trained.base or request.trained.folder


def _export(request: Request, progress: Progress, note: Note) -> dict[str, Any]:
    if request.gguf:
        return _export_gguf(request, progress, note)
    reference = _reference(request, progress, note)
    code = request.trained.trust_remote_code
    precision = write_merged(reference.loaded, _base(request), request.target, request.dtype, progress, code=code)
    proof = _proven(reference, request, request.target, progress)
    _add_memory(proof, reference)
    if proof.problems:
        raise refusal(proof.problems, "the export", "report this with the log: nothing was left in the target")
    return _recorded(request, export_record(_MERGED, str(precision), proof, request.about), progress, note)


def _export_gguf(request: Request, progress: Progress, note: Note) -> dict[str, Any]:
    from dimba.trainers.export.llama import require_known, with_training, write_gguf

    require_known(request.trained)
    reference = with_training(_reference(request, progress, note), progress)
    proof = write_gguf(reference, request, progress)
    _add_memory(proof, reference)
    if proof.problems:
        raise refusal(proof.problems, "the GGUF", "give a type with more bits, such as `--gguf q8_0` or `--gguf f16`")
    return _recorded(request, export_record("gguf", request.gguf, proof, request.about), progress, note)


def _add_memory(proof: Proof, reference: Reference) -> None:
    if reference.in_memory:
        proof.values["in_memory"] = reference.in_memory
    if reference.training_kl is not None:
        proof.values["kl_of_training"] = float(f"{reference.training_kl:.4g}")


def _recorded(request: Request, record: dict[str, Any], progress: Progress, note: Note) -> dict[str, Any]:
    for each in record["notes"]:
        note(each)
    files: dict[str, Any] = {each.name: {} for each in request.target.iterdir()}
    text = card(
        {**record, "files": files},
        request.about,
        _base(request),
        _template_settings(request),
        family_at(_base(request)),
    )
    (request.target / "README.md").write_text(text, encoding="utf-8")
    return write_record(request.target, record, progress)


def _template_settings(request: Request) -> dict[str, Any]:
    trained = request.trained
    values = {"chat_template_kwargs": trained.chat_template_kwargs, "date": trained.template_date}
    return {name: value for name, value in values.items() if value}


def _proven(reference: Reference, request: Request, folder: Path, progress: Progress) -> Proof:
    proof = prove_merged(reference, folder, progress, code=request.trained.trust_remote_code)
    proof.values["computed_in"] = str(next(reference.loaded.model.parameters()).dtype).removeprefix("torch.")
    if request.trained.four_bit and not proof.problems:
        proof.values["quantized_base"] = _on_quantised(request, reference, progress)
    return proof


def _on_quantised(request: Request, reference: Reference, progress: Progress) -> dict[str, Any]:
    """What the model on its quantised base, as it was trained, computes otherwise than on the base itself."""
    loaded = load_trained(request.trained, choose_loading(request.trained, 0))
    logits = logits_of_rows(loaded.model, reference.rows.ids, progress, "the model on its quantised base")
    return compare(logits, reference.logits).as_json()


def _proven_gguf(reference: Reference, files: Sequence[Path], progress: Progress) -> Proof:
    """The proof of the files, which ends at the first that is not what was trained."""
    from dimba.trainers.export.llama import prove_gguf, type_of, with_training

    reference = with_training(reference, progress)
    for file in files:
        proof = prove_gguf(reference, file, type_of(file), progress)
        if proof.problems:
            break
    return proof


def _check(request: Request, progress: Progress, note: Note) -> dict[str, Any]:
    assert request.check is not None
    folder = request.check
    files = sorted(folder.glob("*.gguf"))
    if not files and not (folder / "config.json").is_file():
        raise BadInput(f"{folder} holds neither a model nor a GGUF file", "give the folder of an export", key="--check")
    changed = changed_file(folder, progress)
    reference = _reference(request, progress, note)
    proof = _proven_gguf(reference, files, progress) if files else _proven(reference, request, folder, progress)
    _add_memory(proof, reference)
    if changed and not proof.problems:
        proof.notes.append(f"{changed}; what it computes is what was trained")
    if proof.problems:
        again = f"export it again: `dimba export RUN {'--gguf TYPE' if files else '--merged'}`"
        raise refusal(proof.problems, str(folder), f"{changed}; {again}" if changed else again)
    for each in proof.notes:
        note(each)
    recorded = read_json_object(folder / "export.json")
    return {**recorded, "proof": proof.as_json(), "bounds": proof.bounds, "checked": str(folder)}
