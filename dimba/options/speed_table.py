"""Parameters of speed: how rows share a batch, and which kernels and precision compute a step."""

from functools import partial

from dimba.options.checkpointing import AUTO, WORDS
from dimba.options.kinds import Integer, OneOf, Switch
from dimba.options.param import Param

_speed, _run = (partial(Param, group=group) for group in ("speed", "run"))

PACKING = _speed(
    flags=("--packing",),
    kind=OneOf(("auto", "off")),
    default="auto",
    help="auto: pack several rows into a sequence if a test proves that the model keeps them apart",
)
ATTENTION = _speed(
    flags=("--attention",),
    kind=OneOf(
        ("auto", "documents", "varlen", "sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3")
    ),
    default="auto",
    help="auto: of packed rows documents on a CPU, on a GPU the fastest exact one (measured once a card); else sdpa",
)
MIXED_PRECISION = _speed(
    flags=("--mixed-precision",),
    kind=OneOf(("auto", "no", "bf16", "fp16")),
    default="auto",
    help="auto: the precision configured in accelerate; without one, float32 on a CPU",
)
KERNELS = _speed(
    flags=("--kernels",),
    kind=OneOf(("auto", "own", "liger")),
    default="auto",
    help="norms, rotations and MLPs: the model's own, or Liger's; auto: on a GPU the quicker of both, if proved equal",
)
COMPILE = _speed(
    flags=("--compile",),
    kind=OneOf(("auto", "on", "off")),
    default="auto",
    help="compile the model's layers; auto: on a GPU, if proved equal and the job is long enough to pay for it",
)
FLOAT8 = _speed(
    flags=("--float8",),
    kind=Switch(),
    help="matrix products in float8 by torchao, for training in full on GPUs from compute capability 8.9 on",
)
FLOAT8_ADAPTER = "products in float8 train a model in full, without an adapter"
FLOAT8_HINT = f"leave out `{FLOAT8.flag}`"
ACTIVATION_CHECKPOINTING = _run(
    flags=("--activation-checkpointing",),
    kind=Integer(words=WORDS),
    default=AUTO,
    metavar="N|auto|on|off|offload",
    help="trade time for memory: recompute the activations of the first N layers, of all (on), or of all with their "
    "inputs in host memory (offload); auto: only as far as a GPU cannot hold the activations",
)
SEQUENCE_PARALLEL = _speed(
    key="accelerate.sequence_parallel",
    flags=("--sequence-parallel",),
    aliases=("--sequence-parallel",),
    kind=Integer(),
    default=1,
    metavar="N",
    help="ranks that share each row, where one row does not fit a GPU",
)
