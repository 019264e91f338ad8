"""A pretended GPU: tensors that say `cuda:0`, compute on the CPU, and refuse to meet tensors of the CPU.

Whole jobs run on it with real numbers, with CUDA's autocast. It needs `tests/pretended_cuda.cpp`, compiled and loaded
before torch is imported; so it works in a process of its own, as `python tests/pretended_cuda.py LIBRARY JOBS`. It
knows nothing of a GPU's kernels, memory and speed, nor of 4-bit weights.
"""

import ctypes
import json
import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

if __name__ == "__main__":
    ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # modes of torch do not reach other threads

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
_COPIES = {aten._to_copy.default, aten.copy_.default}
_INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
_WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default}
waits: list[str] = []  # places in dimba's own code that wait for the device, while `is_counting`
is_counting = [False]
_attend = torch.nn.functional.scaled_dot_product_attention


class OnCuda(torch.Tensor):
    """A tensor of the pretended GPU; `host` has its values."""

    @staticmethod
    def __new__(cls, host, requires_grad=False):
        with torch._C._DisableTorchDispatch():
            shape = torch.empty_strided(host.shape, host.stride(), dtype=host.dtype, device="meta")
            own = torch.Tensor._make_subclass(
                cls, shape, requires_grad, dispatch_device=True, device_for_backend_keys=CUDA
            )
        own.host = host
        return own

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda _: CUDA)
    is_cuda = property(lambda _: True)
    is_meta = is_cpu = property(lambda _: False)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _dispatch(func, args, kwargs or {})

    def __repr__(self, **_):
        return f"OnCuda({self.host!r})"

    def __reduce_ex__(self, protocol):
        return self.host.__reduce_ex__(protocol)

    def __deepcopy__(self, _):
        return OnCuda(self.host.clone(), self.requires_grad)

    def get_device(self):
        return 0

    def data_ptr(self):
        return self.host.data_ptr()

    def untyped_storage(self):
        return self.host.untyped_storage()

    def tolist(self):
        _wait()
        return self.host.tolist()

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy


def _wait():
    """Count a place in the code of a step that waits for the device, where dimba itself is the caller."""
    frame = sys._getframe(1)
    while (
        is_counting[0] and frame and not any(part in frame.f_code.co_filename for part in ("/trl/", "/transformers/"))
    ):
        if "/dimba/" in frame.f_code.co_filename:
            waits.append(f"{Path(frame.f_code.co_filename).name}: {frame.f_code.co_name}")
            return
        frame = frame.f_back


def _dispatch(func, args, kwargs):
    leaves = tree_leaves((args, kwargs))
    own = [each for each in leaves if type(each) is OnCuda]
    if func is torch.ops.prim.device.default:
        return CUDA
    device = kwargs.get("device")
    to_cuda = torch.device(device).type == "cuda" if device is not None else bool(own)
    if device is not None and to_cuda:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if own and func not in _COPIES:
        _refuse_other_devices(func, args, leaves)
    if func is aten.copy_.default:
        to_cuda = type(args[0]) is OnCuda
    by_mask = func in _INDEXED and any(each.dtype == torch.bool for each in own[1:])
    if own and (by_mask or func in _WAITS or (device is not None and not to_cuda)):
        _wait()
    by_host = {id(each.host): each for each in own}
    args, kwargs = tree_map(lambda each: each.host if type(each) is OnCuda else each, (args, kwargs))
    result = _addmm(*args, **kwargs) if "addmm.dtype" in str(func) else func(*args, **kwargs)

    def placed(each):
        if not isinstance(each, torch.Tensor) or type(each) is OnCuda:
            return each
        if id(each) in by_host:
            return by_host[id(each)]
        return OnCuda(each) if to_cuda and each.device.type == "cpu" else each

    return tree_map(placed, result)


def _refuse_other_devices(func, args, leaves):
    others = [each for each in leaves if isinstance(each, torch.Tensor) and type(each) is not OnCuda and each.dim()]
    if others and not (func in _INDEXED and type(args[0]) is OnCuda):
        shapes = [tuple(each.shape) for each in others]
        raise RuntimeError(f"{func}: tensors on cuda:0 and on the CPU {shapes}: all must be on the same device")


def _addmm(total, one, other, *_, out=None, **__):
    """CUDA alone has the product of halves that is summed in float32."""
    return (total if out is None else out).copy_(total + one.float() @ other.float())


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _dispatch(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Python's calls that torch would answer in C++ without asking the tensors."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None:
            kwargs["device"] = _with_index(kwargs["device"])
        if func is torch.Tensor.data.__set__ and OnCuda in map(type, args):
            func(*args)
            args[0].host = args[1].host
            return None
        if func is torch.Tensor.to:
            return _to(*args, **kwargs)
        if func is torch.as_tensor and type(args[0]) is OnCuda:
            return _to(*args, **kwargs)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == CUDA:
            grad = kwargs.pop("requires_grad", False)
            made = func(*args, **{**kwargs, "device": "cpu"}).to(CUDA)
            return made.requires_grad_() if grad else made
        return func(*args, **kwargs)


def _with_index(device):
    return CUDA if isinstance(device, int) or torch.device(device).type == "cuda" else torch.device(device)


def _to(own, *rest, device=None, dtype=None, **options):
    rest = list(rest)
    if rest and isinstance(rest[0], torch.Tensor):
        device, dtype = rest[0].device, rest.pop(0).dtype
    elif rest and not isinstance(rest[0], torch.dtype):
        device = rest.pop(0)
    if rest and (rest[0] is None or isinstance(rest[0], torch.dtype)):
        dtype = rest.pop(0)
    options |= dict(zip(("non_blocking", "copy"), rest, strict=False))
    device, dtype = own.device if device is None else _with_index(device), dtype or own.dtype
    if (device, dtype) == (own.device, own.dtype) and not options.get("copy") and not options.get("memory_format"):
        return own
    return torch.Tensor.to(own, device=device, dtype=dtype, **options)


def _attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """What torch computes without any of CUDA's kernels."""
    if type(query) is not OnCuda:
        return _attend(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if not query.dtype == key.dtype == value.dtype:
        raise RuntimeError(f"query, key and value differ: {query.dtype}, {key.dtype}, {value.dtype}")
    if enable_gqa:
        key, value = (each.repeat_interleave(query.shape[1] // key.shape[1], 1) for each in (key, value))
    scores = (query @ key.transpose(-1, -2)).float() * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=CUDA).tril()
    if attn_mask is not None:
        is_choice = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, float("-inf")) if is_choice else scores + attn_mask
    return torch.dropout(scores.softmax(-1).nan_to_num().to(value.dtype), dropout_p, True) @ value


class _Grid:
    """A Triton kernel's `kernel[grid]`, by its counterpart in torch."""

    def __init__(self, counterpart):
        self.counterpart = counterpart

    def __getitem__(self, _):
        return self.counterpart


def _is_cuda(device):
    return device.type == "cuda"


def _driver(capability):
    """What the code asks CUDA's driver for, by the names of `torch.cuda`."""
    one, generator = 80 << 30, torch.random.default_generator
    properties = SimpleNamespace(total_memory=one, name="pretended", major=capability[0], minor=capability[1])
    random = {
        "manual_seed": lambda _: None,
        "manual_seed_all": lambda _: None,
        "get_rng_state": lambda *_, **__: generator.get_state(),
        "set_rng_state": lambda state, *_, **__: generator.set_state(state),
        "get_rng_state_all": lambda: [generator.get_state()],
        "set_rng_state_all": lambda states: generator.set_state(states[0]),
    }
    zeros = ("memory_reserved", "max_memory_reserved", "max_memory_allocated", "memory_allocated", "current_device")
    nothing = ("_lazy_init", "init", "empty_cache", "reset_peak_memory_stats", "synchronize", "set_device")
    names = random | {name: lambda *_: 0 for name in zeros} | {name: lambda *_: None for name in nothing}
    names |= {"is_available": lambda: True, "is_initialized": lambda: True, "device_count": lambda: 1}
    names |= {"get_device_properties": lambda *_: properties, "get_device_name": lambda *_: properties.name}
    names |= {"get_device_capability": lambda *_: capability, "mem_get_info": lambda *_: (one, one)}
    names |= {"is_bf16_supported": lambda including_emulation=True: including_emulation or capability >= (8, 0)}
    names |= {"device": lambda *_: ExitStack(), "stream": lambda *_: ExitStack(), "current_stream": mock.MagicMock()}
    return names, random


@contextmanager
def pretended_cuda(capability):
    from trl import DPOTrainer, GRPOTrainer, SFTTrainer  # noqa: F401  # what they import must see the real device
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    kernels = {f"_{way}_kernel": _Grid(getattr(chunked_logprob, f"_{way}_tile")) for way in ("forward", "backward")}
    triton = SimpleNamespace(cdiv=lambda whole, part: -(-whole // part))
    names, random = _driver(capability)
    accelerator = {"is_available": lambda *_: True, "current_accelerator": lambda *_, **__: torch.device("cuda")}
    accelerator |= {"device_count": lambda: 1, "current_device_index": lambda: 0}
    accelerator |= {"current_stream": lambda *_: SimpleNamespace(is_capturing=lambda: False)}
    with ExitStack() as stack:
        for place, replaced in ((torch.cuda, names), (torch.cuda.random, random), (torch.accelerator, accelerator)):
            stack.enter_context(mock.patch.multiple(place, **replaced))
        stack.enter_context(
            mock.patch.multiple(chunked_logprob, create=True, _use_triton=_is_cuda, triton=triton, **kernels)
        )
        stack.enter_context(mock.patch.object(utils, "_use_triton", _is_cuda))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda own, *_: own))
        stack.enter_context(mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", _attention))
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, False)
        stack.enter_context(_Functions())
        stack.enter_context(_Dispatch())
        yield


def run(mode, capability, flags):
    from dimba.objectives.registry import OBJECTIVES
    from dimba.trainers.command import run_trainer
    from dimba.trainers.objectives.registry import training_half

    short = mock.patch("dimba.trainers.objectives.continuations._NEW_TOKENS", 4)
    with pretended_cuda(tuple(capability)), short:
        return run_trainer(training_half(mode).train, OBJECTIVES[mode].parse(flags))


if __name__ == "__main__":
    from transformers import Trainer

    step = Trainer.training_step

    def counted(*arguments, **named):
        is_counting[0] = True
        try:
            return step(*arguments, **named)
        finally:
            is_counting[0] = False

    Trainer.training_step = counted
    for name, *job in json.loads(sys.argv[2]):
        waits.clear()
        print(f"== {name}", flush=True)  # noqa: T201
        print(f"status {run(*job)}; waits in a step: {sorted(set(waits))}", flush=True)  # noqa: T201
