"""Parameters of GRPO: how it samples completions, and the rewards that score them."""

from functools import partial

from dimba.options.kinds import Integer, Number, OneOf, Switch
from dimba.options.param import Param

_sampling, _reward = (partial(Param, group=group) for group in ("sampling", "reward"))

# Sampling.
GENERATIONS = 8  # completions of one prompt that are compared, by default
NUM_GENERATIONS = _sampling(
    flags=("--num-generations",),
    kind=Integer(least=2),
    metavar="N",
    help=f"completions per prompt (default: {GENERATIONS}, or the most that make complete groups)",
    question="Completions per prompt",
)
MAX_COMPLETION_LENGTH = _sampling(
    flags=("--max-completion-length",), kind=Integer(), default=256, metavar="N", help="tokens per completion at most"
)
TEMPERATURE = _sampling(
    flags=("--temperature",), kind=Number(above=0), default=1.0, metavar="T", help="sampling temperature"
)
SAMPLER = _sampling(
    flags=("--sampler",),
    kind=OneOf(("auto", "transformers", "continuous", "vllm")),
    default="auto",
    help="what samples completions: transformers (auto), its continuous batching, or vLLM on CUDA",
)
SAMPLER_GPUS = _sampling(
    flags=("--sampler-gpus",),
    kind=Integer(least=0),
    default=0,
    metavar="N",
    help="the last N GPUs of the job only sample, with vLLM (default: 0, vLLM shares the GPUs of training)",
)
USE_VLLM = _sampling(flags=("--use-vllm",), kind=Switch(), help="the same as `--sampler vllm`")
DAPO, WD1 = "dapo", "wd1"
LOSS_TYPE = Param(
    flags=("--loss-type",),
    kind=OneOf((DAPO, WD1)),
    default=DAPO,
    group="optimisation",
    help="dapo: ratios of probabilities, a mean over all tokens of a step; wd1, of masked diffusion: likelihoods "
    "weighted by the rewards of a group, without ratios",
)
SAMPLE_STEPS = _sampling(
    flags=("--sample-steps",),
    kind=Integer(),
    default=10,
    metavar="N",
    help="optimiser steps between samples in samples.jsonl",
)

# Rewards.
WEAK_REWARD = 0.6  # share of held-out pairs that a reward model must order rightly
REWARD = _reward(
    flags=("--reward",),
    several=True,
    default=["auto"],
    metavar="NAME",
    help="auto, a verifier's name, or path/to/file.py:function",
    question="Reward",
)
REWARD_WEIGHTS = _reward(
    flags=("--reward-weights",),
    kind=Number(),
    several=True,
    metavar="WEIGHT",
    help="one weight per reward (default: 1)",
)
REWARD_MODEL = _reward(
    flags=("--reward-model",), metavar="MODEL", help="a trained reward model, for the reward `preference`"
)
REWARD_EPOCHS = _reward(
    flags=("--reward-epochs",),
    kind=Number(above=0),
    default=1.0,
    metavar="N",
    help="passes of the reward model over the pairs",
)
REWARD_LEARNING_RATE = _reward(
    flags=("--reward-learning-rate",),
    kind=Number(above=0),
    default=1e-4,
    metavar="RATE",
    help="learning rate of the reward model's adapter",
)
ALLOW_WEAK_REWARD = _reward(
    flags=("--allow-weak-reward",),
    kind=Switch(),
    help=f"continue with a reward model below {WEAK_REWARD:.0%}% on held-out pairs",
)
