"""The export of a GGUF file, run by llama.cpp itself for the proof."""

from __future__ import annotations

import shutil
import tempfile
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dimba.common.errors import BadInput, Location, first_line
from dimba.trainers.export.agreement import Progress, compare
from dimba.trainers.export.gguf.bounds import BOUNDS
from dimba.trainers.export.proof import Bounds, Proof, Reference, note_source, prove_merged, refusal
from dimba.trainers.export.words import named, template_problem
from dimba.trainers.export.write import needed_files, write_merged
from dimba.trainers.models.families import family_at
from dimba.trainers.models.trained import trained_tokenizer

if TYPE_CHECKING:
    from dimba.common.trained import TrainedModel
    from dimba.trainers.export.request import Request
    from dimba.trainers.models.trained import Loaded

# Of the change that training made, a type may lose this share; smaller types have no such bound.
_LOSS = {"f32": 0.02, "f16": 0.02, "bf16": 0.1, "q8_0": 0.5}
_LEAST = 1e-6  # nats, below which the arithmetic of two programs differs


def require_known(trained: TrainedModel) -> None:
    """Raises BadInput if llama.cpp knows the class or the tokenizer not, before any weight is loaded."""
    from dimba.trainers.export.gguf.known import recognised  # llama.cpp, which merged exports do not need

    place = trained.base or trained.folder
    if refusal := family_at(place).gguf:
        raise BadInput(f"{place} {refusal.problem}", refusal.hint, key="--gguf")
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        needed_files(trained, folder)
        trained_tokenizer(trained).save_pretrained(folder)
        recipe = recognised(folder)
    if recipe.problem:
        raise BadInput(recipe.problem, recipe.hint, key="--gguf")


def write_gguf(reference: Reference, request: Request, progress: Progress) -> Proof:
    """Write the GGUF file and its Modelfile into the target; returns the proof of the file.

    Raises:
        BadInput: llama.cpp cannot have the model.
        RunFailed: the merged model, from which it is converted, is not what was trained.
    """
    from dimba.trainers.export.gguf.convert import convert  # as above
    from dimba.trainers.export.gguf.kinds import KINDS
    from dimba.trainers.export.gguf.known import recognised

    kind, target, trained = request.gguf.lower(), request.target, request.trained
    label = KINDS[kind].label if kind in KINDS else kind
    merged, file = target / ".merged", target / f"{request.name}-{label}.gguf"
    code = trained.trust_remote_code
    write_merged(reference.loaded, trained.base or trained.folder, merged, "auto", progress, code=code)
    before = prove_merged(reference, merged, progress, code=code)
    if before.problems:
        raise refusal(before.problems, "the merged model", "report this with the log: nothing was left in the target")
    convert(merged, file, kind, lambda what: progress(what, 0, 0))
    proof = prove_gguf(reference, file, kind, progress, prefix_space=recognised(merged).prefix_space)
    shutil.rmtree(merged)
    if not proof.problems:
        _write_modelfile(reference.loaded, file, proof)
    return proof


def prove_gguf(
    reference: Reference, file: Path, kind: str, progress: Progress, *, prefix_space: bool | None = None
) -> Proof:
    """Compare a GGUF file, run by llama.cpp, with the trained model.

    `prefix_space`: whether llama.cpp puts a space in front of a bare text, as some tokenizers do (None: either).
    """
    from dimba.trainers.export.gguf.engine import LlamaModel  # as above

    proof = Proof(reference.rows.source)
    try:
        with LlamaModel(file) as model:
            _prove_words(proof, reference.loaded, model, prefix_space)
            if not proof.problems:
                _prove_logits(proof, reference, model, kind, progress)
    except BadInput as error:
        proof.add("loads", error.cause)
    return proof


def type_of(file: Path) -> str:
    """The type of a GGUF file, by its name; the one with the widest bounds if that has none."""
    found = [kind for kind in BOUNDS if file.stem.lower().endswith(f"-{kind}")]
    return found[0] if found else next(reversed(BOUNDS))


def _prove_words(proof: Proof, loaded: Loaded, model: Any, prefix_space: bool | None) -> None:
    from dimba.trainers.export.gguf.known import Recipe, compared  # as above

    theirs = copy(loaded.tokenizer)
    theirs.chat_template = model.chat_template()
    proof.add("template_equal", template_problem(loaded.tokenizer, theirs, loaded.settings))
    note_source(proof, loaded.tokenizer.chat_template, theirs.chat_template)
    recipes = [Recipe(prefix_space=each) for each in ((True, False) if prefix_space is None else (prefix_space,))]
    differences = [compared(loaded.tokenizer, model, each) for each in recipes]
    proof.add("vocabulary_equal", differences[0] if all(differences) else "")
    ends, special = model.end_tokens(), _special_ids(loaded)
    problem = ""
    if not set(loaded.ends) <= ends or not ends - set(loaded.ends) <= special:
        found, wanted = named(loaded.tokenizer, ends), named(loaded.tokenizer, loaded.ends)
        problem = f"llama.cpp ends at {found}, and turns end at {wanted}"
    proof.add("end_tokens_equal", problem)


def _special_ids(loaded: Loaded) -> set[int]:
    """Control tokens, by whose names llama.cpp takes some for further ends; no answer has one in its words."""
    return {number for number, token in loaded.tokenizer.added_tokens_decoder.items() if token.special}


def _prove_logits(proof: Proof, reference: Reference, model: Any, kind: str, progress: Progress) -> None:
    found = []
    for number, row in enumerate(reference.rows.ids):
        progress("llama.cpp", number, len(reference.rows.ids))
        found.append(torch.from_numpy(model.logits(row)))
    proof.add_agreement(compare(reference.logits, found), bounds_of(kind, reference.training_kl))


def bounds_of(kind: str, training_kl: float | None) -> Bounds:
    """The bounds of a type, given the KL divergence that training made."""
    known = BOUNDS[kind]
    mean = known.kl_mean
    if training_kl is not None and kind in _LOSS:
        mean = min(mean, max(_LEAST, _LOSS[kind] * training_kl))
    return Bounds(kl_mean=float(f"{mean:.4g}"), agreement=known.agreement)


def _write_modelfile(loaded: Loaded, file: Path, proof: Proof) -> None:
    from dimba.trainers.data.render import Renderer
    from dimba.trainers.export.gguf.modelfile import modelfile  # as above

    render = Renderer(loaded.tokenizer, loaded.settings)

    def rendered(turns: Any) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        return render.text(messages, None, Location("Modelfile"), ask=True)

    ends = [str(loaded.tokenizer.convert_ids_to_tokens(each)) for each in loaded.ends]
    try:
        text = modelfile(loaded.tokenizer, file.name, ends, rendered)
    except BadInput as error:
        proof.notes.append(f"{first_line(error)}; {error.hint}")
        return
    (file.parent / "Modelfile").write_text(text, encoding="utf-8")


def with_training(reference: Reference, progress: Progress) -> Reference:
    """The reference, with how far training moved it from its base; unchanged for a complete model."""
    from dimba.trainers.export.agreement import logits_of_rows

    model = reference.loaded.model
    if not hasattr(model, "peft_config"):
        return reference
    with model.disable_adapter():
        base = logits_of_rows(model, reference.rows.ids, progress, "the base")
    return replace(reference, training_kl=compare(reference.logits, base).kl_mean)
