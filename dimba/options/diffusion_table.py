"""Parameters of masked diffusion: the token that stands for a masked one, end tokens, and the masks of a pair."""

from functools import partial

from dimba.options.kinds import Integer
from dimba.options.param import Param

_rows = partial(Param, group="rows")

MASK_TOKEN = _rows(
    flags=("--mask-token",),
    metavar="TOKEN",
    help="masked diffusion: the token that stands for a masked one, where the base names none",
    question="Mask token",
)
END_TAIL = _rows(
    flags=("--end-tail",),
    kind=Integer(least=0),
    default=0,
    metavar="N",
    help="masked diffusion: fill each row with scored end tokens up to a multiple of N tokens (default: 0, one end "
    "token is scored)",
)
MASK_DRAWS = Param(
    flags=("--mask-draws",),
    kind=Integer(),
    default=8,
    metavar="N",
    group="optimisation",
    help="masked diffusion: masks per answer and step that a likelihood is estimated from; memory and time grow with "
    "them",
)
