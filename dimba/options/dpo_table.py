"""Parameters of DPO."""

from dimba.options.kinds import OneOf
from dimba.options.param import Param

# TRL's losses that compare the answers of one pair and need no other option.
PAIR_LOSSES = (
    *("sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard"),
    *("apo_zero", "apo_down", "discopop", "sigmoid_norm"),
)
PAIR_LOSS = Param(
    flags=("--loss-type",),
    kind=OneOf(PAIR_LOSSES),
    default=PAIR_LOSSES[0],
    group="optimisation",
    help="loss of a pair, by the names of TRL's DPOTrainer",
)
