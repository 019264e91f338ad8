"""How a checkpoint's weights are quantised, and what can be trained on them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from dimba.common.checkpoint.files import Checkpoint
from dimba.common.checkpoint.refusal import Refusal
from dimba.common.contract import read_json_object

_OTHER_FILES = ("quantize_config.json", "quant_config.json", "quantization_config.json", "hf_quant_config.json")
_ORIGINAL = "use the checkpoint that it was quantised from"


class _Scheme(NamedTuple):
    label: str
    packages: tuple[str, ...] = ()  # that transformers needs to load it
    adapters: bool = False  # transformers and peft train an adapter on it
    config: str = ""  # transformers' class whose `dequantize=True` loads it as ordinary weights


# By `quant_method`, from `quantizers/` of transformers 5.23: `validate_environment` and `is_trainable`.
_SCHEMES = {
    "bitsandbytes_4bit": _Scheme("bitsandbytes, 4 bit", ("bitsandbytes",), adapters=True),
    "bitsandbytes_8bit": _Scheme("bitsandbytes, 8 bit", ("bitsandbytes",), adapters=True),
    "gptq": _Scheme("GPTQ", ("optimum", "gptqmodel"), adapters=True),
    "awq": _Scheme("AWQ", ("gptqmodel",), adapters=True),
    "aqlm": _Scheme("AQLM", ("aqlm",), adapters=True),
    "hqq": _Scheme("HQQ", ("hqq",), adapters=True),
    "eetq": _Scheme("EETQ", ("kernels",), adapters=True),
    "vptq": _Scheme("VPTQ", ("vptq",), adapters=True),
    "quanto": _Scheme("quanto", ("optimum.quanto",), adapters=True),
    "torchao": _Scheme("torchao", ("torchao",), adapters=True),
    "compressed-tensors": _Scheme("compressed-tensors", ("compressed_tensors",), adapters=True),
    "quark": _Scheme("Quark", ("quark",), adapters=True),
    "fp8": _Scheme("FP8, in blocks", config="FineGrainedFP8Config"),
    "mxfp8": _Scheme("MXFP8", config="FineGrainedFP8Config"),
    "mxfp4": _Scheme("MXFP4", config="Mxfp4Config"),
    "metal": _Scheme("Metal", config="MetalConfig"),
    "auto-round": _Scheme("AutoRound"),
    "fbgemm_fp8": _Scheme("FBGEMM FP8"),
    "bitnet": _Scheme("BitNet"),
    "higgs": _Scheme("HIGGS"),
    "spqr": _Scheme("SpQR"),
    "sinq": _Scheme("SINQ"),
    "gguf": _Scheme("GGUF"),
    "nvfp4": _Scheme("NVFP4"),
    "modelopt": _Scheme("ModelOpt"),
    "mlx": _Scheme("MLX"),
}
PACKAGES = tuple(sorted({package for scheme in _SCHEMES.values() for package in scheme.packages}))
IN_IMAGE = ("bitsandbytes",)  # of these, what docker/requirements.txt installs
# Tensors that only packed weights have, by the scheme that they are most likely of.
_PACKED_NAMES = (
    (re.compile(r"\.(quant_state\.bitsandbytes__\w+|absmax|nested_absmax)$"), "bitsandbytes_4bit"),
    (re.compile(r"\.SCB$"), "bitsandbytes_8bit"),
    (re.compile(r"\.(g_idx|qzeros|qweight)$"), "gptq"),
    (re.compile(r"\.(weight_packed|weight_global_scale)$"), "compressed-tensors"),
    (re.compile(r"_blocks$|_scales$"), "mxfp4"),
    (re.compile(r"\.weight_scale(_inv|_2)?$"), "fp8"),
)
_INTEGERS = ("U8", "I8", "I32", "U32")
_PACKED_TYPES = (*_INTEGERS, "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4")


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """The scheme of quantised weights, as transformers names it; `declared` if config.json does."""

    method: str
    bits: int | None = None
    declared: bool = True
    folder: str = "BASE"
    has_packed_weights: bool = True  # as far as the headers tell

    @property
    def label(self) -> str:
        """The scheme with its bits, for people."""
        label = _scheme(self.method).label
        return f"{label}, {self.bits} bit" if self.bits and "bit" not in label else label

    def refusal(self, method: str, is_installed: Callable[[str], bool]) -> Refusal | None:
        """The refusal of training by `method`: full, lora or qlora; `is_installed` knows the packages of the job."""
        scheme = _scheme(self.method)
        if not self.declared:
            problem = f"has weights that are quantised ({self.label}), but no `quantization_config` in config.json"
            return Refusal(problem, f"{_ORIGINAL}, or copy config.json of the quantised checkpoint again")
        if not self.has_packed_weights and self.method.startswith(
            "bitsandbytes"
        ):  # without packages the others are refused
            problem = f"is quantised ({self.label}) by its config.json, but its weights are not packed"
            return Refusal(problem, "remove `quantization_config` from config.json, if the weights are complete")
        if scheme.config:
            return Refusal(f"is quantised ({self.label}), which no method trains", self._dequantizing(scheme))
        if not scheme.adapters:
            return Refusal(f"is quantised ({self.label}), which no method trains", _ORIGINAL)
        if missing := [name for name in scheme.packages if not is_installed(name)]:
            problem = f"is quantised ({self.label}), which needs {' and '.join(missing)}: not installed for the job"
            return Refusal(problem, f"{_ORIGINAL}; `method: qlora` quantises that one while loading")
        if method == "full":
            problem = f"is quantised ({self.label}): its packed weights cannot be trained in full"
            return Refusal(problem, f"`method: lora` trains an adapter on it; or {_ORIGINAL}")
        if method == "qlora" and not self.method.startswith("bitsandbytes"):
            problem = f"is quantised already ({self.label}), and qlora would quantise it with bitsandbytes"
            return Refusal(problem, f"`method: lora` trains an adapter on it; or {_ORIGINAL}")
        return None

    def _dequantizing(self, scheme: _Scheme) -> str:
        load = f"M.from_pretrained('{self.folder}', quantization_config=C(dequantize=True))"
        load += f".save_pretrained('{self.folder}-bf16')"
        code = f"from transformers import AutoModelForCausalLM as M, {scheme.config} as C; {load}"
        return f'unpack it once: `python -c "{code}"`, and copy the tokenizer\'s files there'


def quantization_of(checkpoint: Checkpoint) -> Quantization | None:
    """The quantisation that config.json, an older file beside it, or the tensors' names show; None without any."""
    declared = _declared(checkpoint.config)
    if declared.get("linear_class") == "autobitlinear" and declared.get("quantization_mode") == "online":
        return None  # BitNet's unpacked weights, which are quantised in each forward pass and trained so
    if declared:
        is_packed = not checkpoint.tensors or _is_packed(checkpoint)
        found = _quantization(declared, declared=True)
        return replace(found, folder=str(checkpoint.folder), has_packed_weights=is_packed)
    for name in _OTHER_FILES:
        settings = read_json_object(checkpoint.folder / name)
        settings = settings.get("quantization") or settings
        if isinstance(settings, Mapping) and _is_packed(checkpoint) and settings:
            return _quantization({"quant_method": "awq" if "w_bit" in settings else "gptq", **settings}, declared=False)
    method = _method_of_names(checkpoint)
    return Quantization(method=method, declared=False) if method else None


def _declared(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config")
    parts = [config, text if isinstance(text, Mapping) else {}]
    found = [part.get(name) for part in parts for name in ("quantization_config", "compression_config", "quantization")]
    return next((each for each in found if isinstance(each, Mapping) and each), {})


def _quantization(settings: Mapping[str, Any], *, declared: bool) -> Quantization:
    unnamed = "mlx" if settings.keys() <= {"group_size", "bits", "mode"} else "an unnamed scheme"
    method = str(settings.get("quant_method") or settings.get("quant_algo") or unnamed).lower()
    bits = next((settings[key] for key in ("bits", "w_bit", "nbits") if type(settings.get(key)) is int), None)
    if settings.get("load_in_4bit") or settings.get("load_in_8bit") or method == "bitsandbytes":
        method = f"bitsandbytes_{4 if settings.get('load_in_4bit') else 8}bit"
        return Quantization(method=method, declared=declared)
    return Quantization(method=method, bits=bits, declared=declared)


def _scheme(method: str) -> _Scheme:
    return _SCHEMES.get(method, _Scheme(method))


def _method_of_names(checkpoint: Checkpoint) -> str:
    """The scheme that the names of tensors betray, if the weights beside them are of a packed type."""
    if not _is_packed(checkpoint):
        return ""
    for pattern, method in _PACKED_NAMES:
        if any(pattern.search(name) for name in checkpoint.tensors):
            return method
    is_packed = any(
        name.endswith(".weight") and each["dtype"] in _INTEGERS for name, each in checkpoint.tensors.items()
    )
    return "integers" if is_packed else ""


def _is_packed(checkpoint: Checkpoint) -> bool:
    return any(tensor["dtype"] in _PACKED_TYPES for tensor in checkpoint.tensors.values())
