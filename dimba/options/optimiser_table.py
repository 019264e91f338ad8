"""Parameters of the optimiser: its kind, the course of the learning rate, weight decay and clipping."""

from collections.abc import Mapping
from functools import partial

from dimba.options.kinds import Number, OneOf, StepsOrShare
from dimba.options.param import Param

_optimiser = partial(Param, group="optimisation")

# Those of transformers that need no further setting; reduce_lr_on_plateau and the like do.
SCHEDULERS = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"),
    *("constant", "constant_with_warmup"),
)
# Bytes of state per trained parameter, as measured on a matrix of 128 × 64 (a smaller tensor stays in 32 bits);
# transformers' other optimisers need packages that no image of dimba has, or are for other devices.
BITSANDBYTES: Mapping[str, float] = {
    **{"paged_adamw_32bit": 8, "adamw_8bit": 2.28, "adamw_bnb_8bit": 2.28, "paged_adamw_8bit": 2.28},
    **{"ademamix": 12, "paged_ademamix_32bit": 12, "ademamix_8bit": 3.3, "paged_ademamix_8bit": 3.3},
    **{"lion_32bit": 4, "paged_lion_32bit": 4, "lion_8bit": 1.14, "paged_lion_8bit": 1.14},
    **{"rmsprop_bnb": 4, "rmsprop_bnb_32bit": 4, "rmsprop_bnb_8bit": 1.14},
}
OPTIMIZERS: Mapping[str, float] = {
    **{"adamw_torch_fused": 8, "adamw_torch": 8, "rmsprop": 4, "adagrad": 4, "adafactor": 0.09, "sgd": 0},
    **BITSANDBYTES,
}
# Those that work on FSDP2's parameters: the others fail at the first step (torch 2.13, bitsandbytes 0.50).
SHARDED = ("adamw_torch_fused", "adamw_torch", "rmsprop", "sgd")
NOT_SHARDED_HINT = f"use one of {', '.join(SHARDED)}"

SCHEDULER = _optimiser(
    key="training.scheduler",
    flags=("--scheduler", "--lr-scheduler-type"),
    aliases=("--scheduler", "--lr-scheduler-type", "--lr-scheduler"),
    kind=OneOf(SCHEDULERS),
    default="linear",
    help="course of the learning rate after the warmup",
    question="Scheduler",
)
WARMUP = _optimiser(
    key="training.warmup",
    flags=("--warmup",),
    aliases=("--warmup",),
    kind=StepsOrShare(),
    default=0.0,
    metavar="N",
    help="optimiser steps until the full learning rate, or a share of all steps below 1",
    question="Warmup",
)
WEIGHT_DECAY = _optimiser(
    key="training.weight_decay",
    flags=("--weight-decay",),
    aliases=("--weight-decay",),
    kind=Number(least=0, most=1),
    default=0.0,
    metavar="RATE",
    help="share of a weight, times the learning rate, that each step takes off",
    question="Weight decay",
)
MAX_GRAD_NORM = _optimiser(
    key="training.max_grad_norm",
    flags=("--max-grad-norm",),
    aliases=("--max-grad-norm", "--gradient-clipping"),
    kind=Number(least=0),
    default=1.0,
    metavar="NORM",
    help="length to which the gradient of a step is cut; 0: not cut",
    question="Gradient norm",
)
OPTIMIZER = _optimiser(
    key="training.optimizer",
    flags=("--optimizer", "--optim"),
    aliases=("--optimizer", "--optim"),
    kind=OneOf(tuple(OPTIMIZERS)),
    default="adamw_torch_fused",
    help="the optimiser, as transformers names it",
    question="Optimiser",
)
PARAMS = (SCHEDULER, WARMUP, WEIGHT_DECAY, MAX_GRAD_NORM, OPTIMIZER)
