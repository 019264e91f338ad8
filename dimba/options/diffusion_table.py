"""Parameters of masked diffusion: the mask token, end tokens, masks of a pair, and how completions are sampled."""

from functools import partial

from dimba.options.kinds import Integer, Number
from dimba.options.param import Param

_rows, _sampling = (partial(Param, group=group) for group in ("rows", "sampling"))

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

# Sampling in training.
BLOCK_LENGTH = _sampling(
    flags=("--block-length",),
    kind=Integer(),
    default=32,
    metavar="N",
    help="masked diffusion: tokens of a completion that are filled in together",
)
DIFFUSION_STEPS = _sampling(
    flags=("--diffusion-steps",),
    kind=Integer(),
    metavar="N",
    help="masked diffusion: steps per block (default: one per token)",
)
GUIDANCE = _sampling(
    flags=("--guidance",),
    kind=Number(least=0),
    default=0.0,
    metavar="W",
    help="masked diffusion: move the logits away from those without the prompt (0: off)",
)
P_MASK_PROMPT = _sampling(
    flags=("--p-mask-prompt",),
    kind=Number(least=0, most=1),
    default=0.15,
    metavar="P",
    help="masked diffusion: share of the prompt's tokens that are masked where completions are scored",
)
