"""Every tensor of an export against the merge that it should hold, and the share of the adapter that it does hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dimba.trainers.export.agreement import Progress
from dimba.trainers.export.merge import base_weights, plain
from dimba.trainers.models.merged import merged_weights
from dimba.trainers.models.precision import Precision

_ROUNDINGS = 2.0  # of another tool that rounds the adapter's part as well
_NOISE = 1e-6  # of float32, relative to the whole matrix
_SHARE = 0.02  # of the adapter


@dataclass(frozen=True)
class TensorReport:
    """The comparison of all tensors; `problem` is about the first that differs, or empty.

    `adapter_share`: the share of the adapter's part that the least of the matrices holds, as rounding loses some of
    it; None without an adapter.
    """

    compared: int
    problem: str = ""
    adapter_share: float | None = None


@dataclass(frozen=True)
class _Matrix:
    """A tensor before training, as it should be exported, and as it was; float32."""

    before: torch.Tensor | None
    expected: torch.Tensor
    found: torch.Tensor
    precision: torch.dtype

    @property
    def rounded(self) -> torch.Tensor:
        return self.expected.to(self.precision).float()

    def share_of(self, value: torch.Tensor) -> float | None:
        """The share of the adapter's part that `value` holds: 1 for all of it, 0 for the base."""
        if self.before is None or self.before.shape != self.expected.shape:
            return None
        added = (self.expected - self.before).flatten().double()
        size = float(added @ added)
        return float((value - self.before).flatten().double() @ added) / size if size > 0 else None

    def problem(self) -> str:
        if self.found.shape != self.expected.shape:
            return f"has the shape {tuple(self.found.shape)}, not {tuple(self.expected.shape)}"
        share, wanted = self.share_of(self.found), self.share_of(self.rounded)
        if share is not None and wanted is not None and not abs(share - wanted) <= _SHARE:
            return f"holds {share:.0%} of the adapter's change, and should hold {wanted:.0%}"
        error = float((self.found - self.expected).norm())
        rounding = float((self.rounded - self.expected).norm())
        size = float(self.expected.norm())
        if not error <= _ROUNDINGS * rounding + _NOISE * size:
            return f"has other values: they differ by {error / max(size, 1e-30):.2%}"
        return ""


def compare_tensors(model: Any, exported: Any, precision: Precision, progress: Progress) -> TensorReport:
    """Compare each tensor of `exported` with the merge of `model` and its adapter."""
    before = base_weights(model)
    found = dict(plain(exported).state_dict())
    shares, compared = [], 0
    ties = dict(getattr(plain(model), "all_tied_weights_keys", None) or {})
    for name, expected in merged_weights(model, exact=True):
        progress("comparing", min(compared, len(found)), len(found))
        compared += 1
        if name not in found:
            return TensorReport(compared, f"`{name}` is missing")
        if not expected.is_floating_point():
            if not torch.equal(expected.cpu(), found[name].cpu()):
                return TensorReport(compared, f"`{name}` has other values")
            continue
        matrix = _matrix(name, before, expected, found[name], precision)
        if problem := matrix.problem():
            tied = " (tied to another)" if name in ties else ""
            return TensorReport(compared, f"`{name}`{tied} {problem}")
        share = matrix.share_of(matrix.rounded)
        shares += [] if share is None else [share]
    return TensorReport(compared, adapter_share=min(shares) if shares else None)


def _matrix(
    name: str, before: Mapping[str, torch.Tensor], expected: torch.Tensor, found: torch.Tensor, precision: Precision
) -> _Matrix:
    device, old = expected.device, before.get(name)
    return _Matrix(
        before=None if old is None else old.to(device).float(),
        expected=expected.float(),
        found=found.to(device).float(),
        precision=precision.of(name, expected),
    )
