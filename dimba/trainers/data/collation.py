"""How rows become a batch: end to end where the model keeps them apart, else padded, and said."""

from collections.abc import Callable
from functools import partial
from typing import Any

from dimba.common.errors import BadInput
from dimba.objectives.sft import SftOptions
from dimba.trainers.command import is_first_rank
from dimba.trainers.data.packing import collate_packed, collate_padded, packing_error
from dimba.trainers.kernels.documents import NAME, within_documents
from dimba.trainers.models.sharding import agreed


def choose_collator(args: SftOptions, model: Any, pad_id: int, *, on_cpu: bool) -> Callable[..., Any]:
    """As the flags say, and where they leave it open, as the model allows; sets the model's attention with it."""
    padded = partial(collate_padded, pad_id=pad_id)
    if args.attention == "documents":
        return _by_documents(args, model, pad_id)
    if args.packing == "off" or args.batch_size == 1:
        return padded
    # Elsewhere than on a CPU kernels go over the mask as quickly as launching one for each document takes.
    if args.attention == "auto" and on_cpu and within_documents(model).exact:
        return partial(collate_packed, max_length=args.batch_size * args.max_length, pad_id=pad_id)
    probe = agreed(packing_error(model))
    if probe.exact:
        return partial(collate_packed, max_length=args.max_length, pad_id=pad_id)
    if is_first_rank():
        print(f"packing is off, rows are padded: {probe.why}", flush=True)
    return padded


def _by_documents(args: SftOptions, model: Any, pad_id: int) -> Callable[..., Any]:
    hint = "leave --attention out: what is quickest and exact is taken then"
    if args.packing == "off":
        raise BadInput("--attention documents is for packed rows, and --packing is off", hint)
    probe = within_documents(model)
    if not probe.exact:
        raise BadInput(f"--attention documents: {probe.why}", hint)
    return partial(collate_packed, max_length=args.batch_size * args.max_length, pad_id=pad_id)


def told(model: Any, collate: Any, *, mixed: str, activations: str) -> str:
    """The choices in a line."""
    packed = getattr(collate, "func", None) is collate_packed
    attention = "within documents" if model.config._attn_implementation == NAME else model.config._attn_implementation
    parts = ["float32" if mixed == "no" else f"mixed {mixed}", "rows packed" if packed else "rows padded"]
    parts += [f"attention {attention}", f"activations {activations}"]
    return ", ".join(parts)
