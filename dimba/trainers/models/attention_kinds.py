"""The attention that --attention asks for, as transformers is asked for it; refused where it cannot work."""

from importlib.util import find_spec

import torch

from dimba.common.errors import BadInput

_PACKAGES = {
    "flash_attention_2": ("flash-attn", "flash_attn"),
    "flash_attention_3": ("FlashAttention 3", "flash_attn_interface"),
}
_AFTER_LOADING = ("auto", "documents", "varlen")  # chosen once the model is loaded (`choose_layout`)
_ON_CUDA = (*_PACKAGES, "flex_attention", "varlen")
_IN_HALF = (*_PACKAGES, "varlen")


def requested_attention(kind: str, method: str, mixed: str, *, on_cpu: bool) -> dict[str, str]:
    """Keyword arguments of `from_pretrained`; `mixed` is no, fp16 or bf16.

    Raises:
        BadInput: the device or the precision lacks the kernel.
    """
    problem, hint = _problem(kind, method, mixed, on_cpu=on_cpu)
    if problem:
        raise BadInput(problem, hint, key=f"--attention {kind}")
    return {} if kind in _AFTER_LOADING else {"attn_implementation": kind}


def _problem(kind: str, method: str, mixed: str, *, on_cpu: bool) -> tuple[str, str]:
    other = "leave out --attention, or use `--attention sdpa`"
    if on_cpu and kind in _ON_CUDA:
        return "it is for CUDA", other
    # A frozen base is in 16 bits in any case.
    if kind in _IN_HALF and mixed == "no" and method == "full":
        return (
            "it computes in bf16 or fp16, and this job trains in float32",
            f"use `--mixed-precision bf16`, or {other}",
        )
    name, package = _PACKAGES.get(kind, ("", ""))
    if package and find_spec(package) is None:
        return f"{name} is not installed", other
    if kind == "varlen" and not _has_varlen():
        return f"torch {torch.__version__} does not have it", "use torch 2.11 or later, or leave out --attention"
    return "", ""


def _has_varlen() -> bool:
    from dimba.trainers.kernels.varlen import is_available  # seconds, which other attention does not need

    return is_available()
