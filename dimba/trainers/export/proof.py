"""The proof of a merged model: what was exported, loaded as its users load it, is what was trained."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer

from dimba.common.errors import RunFailed, first_line
from dimba.trainers.export.agreement import Agreement, Logits, Progress, compare, logits_of_rows
from dimba.trainers.export.configuration import config_problem
from dimba.trainers.export.merge import plain
from dimba.trainers.export.rows import Rows
from dimba.trainers.export.tensors import TensorReport, compare_tensors
from dimba.trainers.export.words import end_problem, template_problem, vocabulary_problem
from dimba.trainers.models.families import auto_class, family_at, family_of_model
from dimba.trainers.models.loading_report import LoadingReport
from dimba.trainers.models.precision import Precision, base_precision

if TYPE_CHECKING:
    from dimba.trainers.models.trained import Loaded


@dataclass(frozen=True)
class Bounds:
    """What an export's numbers may be at most, or at least for `agreement`; None is not bounded."""

    kl_mean: float | None = None
    kl_max: float | None = None
    agreement: float | None = None
    logits: float | None = None  # relative to the largest logit, or to 1

    def as_json(self) -> dict[str, float]:
        """The bounds that there are."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def problem(self, found: Agreement) -> str:
        """The first bound that is not kept, in words; empty if all are."""
        allowed = (self.logits or 0) * max(1.0, found.logits_scale)
        if not found.positions:
            return "there is no token to compare them on"
        if self.logits is not None and not found.logits_max_difference <= allowed:
            return f"the logits differ by {found.logits_max_difference:.2g}, and may by {allowed:.2g}"
        if self.kl_mean is not None and not found.kl_mean <= self.kl_mean:
            return f"the mean KL divergence is {found.kl_mean:.2g} nats, and may be {self.kl_mean:.2g}"
        if self.kl_max is not None and not found.kl_max <= self.kl_max:
            return f"the largest KL divergence is {found.kl_max:.2g} nats, and may be {self.kl_max:.2g}"
        is_close = self.kl_mean is not None and found.kl_mean <= _CLOSE * self.kl_mean  # a tie may go either way
        if self.agreement is not None and not is_close and not found.agreement >= self.agreement:
            return f"{found.agreement:.1%} of the likeliest tokens are equal, and {self.agreement:.0%} have to be"
        return ""


_LEAST_SHARE = 0.9  # of the adapter's change in a matrix, below which a note names the loss

_CLOSE = 0.1  # of the bound of the KL divergence, below which the likeliest tokens differ where two are as likely
# Rounding of the weights alone, as both models compute in the same precision; docs/export.md has what was measured.
BOUNDS = {
    "float32": Bounds(logits=1e-5),
    "float16": Bounds(kl_mean=1e-3, kl_max=0.1),
    "bfloat16": Bounds(kl_mean=1e-2, kl_max=1.0),
}


@dataclass(frozen=True)
class Reference:
    """The trained model, and what it computes for the rows of the proof."""

    loaded: Loaded
    rows: Rows
    logits: Logits
    training_kl: float | None = None  # of the base, mean in nats; None without an adapter
    in_memory: dict[str, Any] = field(default_factory=dict)  # the comparison with the model that training had


@dataclass
class Proof:
    """What was compared, and in `problems` what differs."""

    rows: str  # where they come from
    problems: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, problem: str) -> None:
        """Note whether a part is equal."""
        self.values[name] = not problem
        self.problems += [problem] if problem else []

    def add_agreement(self, found: Agreement, bounds: Bounds) -> None:
        """Note the numbers, and the bound that they do not keep."""
        self.values |= found.as_json()
        self.bounds = bounds.as_json()
        problem = bounds.problem(found)
        self.problems += [problem] if problem else []

    def as_json(self) -> dict[str, Any]:
        """The proof as export.json has it."""
        return {"data": self.rows, **self.values}


def reference_of(loaded: Loaded, rows: Rows, progress: Progress) -> Reference:
    """What the trained model computes."""
    return Reference(loaded, rows, logits_of_rows(loaded.model, rows.ids, progress, "the trained model"))


def prove_merged(reference: Reference, folder: Path, progress: Progress, *, code: bool = False) -> Proof:
    """Compare the merged model in `folder`, loaded by plain transformers, with the trained one."""
    loaded, proof = reference.loaded, Proof(reference.rows.source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=code)
    except Exception as error:  # whatever its files make the library raise
        proof.add("vocabulary_equal", f"its tokenizer cannot be loaded: {first_line(error)}")
        return proof
    proof.add("template_equal", template_problem(loaded.tokenizer, tokenizer, loaded.settings))
    proof.add("vocabulary_equal", vocabulary_problem(loaded.tokenizer, tokenizer))
    proof.add("end_tokens_equal", end_problem(loaded.tokenizer, folder, loaded.ends))
    note_source(proof, loaded.tokenizer.chat_template, tokenizer.chat_template)
    _prove_weights(proof, reference, folder, progress, code=code)
    gc.collect()
    return proof


def note_source(proof: Proof, ours: Any, theirs: Any) -> None:
    """Note whether the template is the same text, and not only renders the probes alike."""
    proof.values["template_source_equal"] = ours == theirs
    if ours != theirs and proof.values.get("template_equal"):
        proof.notes.append("the chat template is written otherwise than that of training, and renders the probes alike")


def _prove_weights(proof: Proof, reference: Reference, folder: Path, progress: Progress, *, code: bool) -> None:
    progress("loading the export", 0, 1)
    model = reference.loaded.model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported, info = auto_class(family_at(str(folder))).from_pretrained(
                folder,
                dtype=next(model.parameters()).dtype,
                device_map={"": str(model.device)} if model.device.type != "cpu" else None,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=code,
            )
        report = LoadingReport.of(str(folder), exported, info).refusal()
        problem = f"it {report.problem}" if report else ""
    except Exception as error:  # as above
        problem = f"it cannot be loaded: {first_line(error)}"
    if problem:
        return proof.add("tensors_equal", problem)
    computed = next(model.parameters()).dtype
    is_exact = computed == torch.float32
    precision = base_precision(str(folder)) if is_exact else Precision(computed)  # both are loaded like this
    proof.add("configuration_equal", config_problem(plain(model).config.to_dict(), exported.config.to_dict()))
    tensors = compare_tensors(model, exported.eval(), precision, progress)
    _add_tensors(proof, tensors)
    rows = [row for row in reference.rows.ids if max(row) < exported.get_input_embeddings().weight.shape[0]]
    if len(rows) < len(reference.rows.ids):
        return proof.add("rows_equal", "its embedding lacks rows for tokens of the data")
    bounds = BOUNDS.get(str(precision) if is_exact else "", BOUNDS["bfloat16"])
    if bounds.logits is not None:
        bounds = replace(bounds, logits=family_of_model(exported).rounding)
    found = compare(reference.logits, logits_of_rows(exported, rows, progress, "the export"))
    proof.add_agreement(found, bounds)
    return None


def _add_tensors(proof: Proof, report: TensorReport) -> None:
    proof.add("tensors_equal", report.problem)
    proof.values["tensors"] = report.compared
    if report.adapter_share is not None:
        proof.values["adapter_share"] = float(f"{report.adapter_share:.4g}")
        if report.adapter_share < _LEAST_SHARE:
            kept = f"rounding leaves {report.adapter_share:.0%} of the adapter's change in one of the matrices"
            proof.notes.append(f"{kept}: `--dtype float32` keeps all of it")


def refusal(problems: Sequence[str], what: str, hint: str) -> RunFailed:
    """The refusal of an export that is not what was trained."""
    found = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
    return RunFailed(f"{what} is not what was trained: {found}", hint, reason="export_differs")


def vocabulary_size(model: Any) -> int:
    """The number of values of one token's logits."""
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    return int(weight.shape[0]) if weight is not None else int(model.config.get_text_config().vocab_size)
