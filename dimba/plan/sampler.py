"""The sampler of a job: whether it can work here, and the GPUs that only sample. Pure."""

import json
from collections.abc import Sequence

from dimba.common.contract import ENV_SAMPLER, ENV_SAMPLER_GPUS
from dimba.common.errors import BadInput, DimbaError, HostCannot
from dimba.common.units import quantity, size
from dimba.host.facts import Gpu, HostFacts
from dimba.objectives.family import Family
from dimba.objectives.samplers import AUTO, CONTINUOUS, TRANSFORMERS, Sampler
from dimba.options.grpo_table import SAMPLER_GPUS
from dimba.options.table import TRUST_REMOTE_CODE
from dimba.plan.activations import HALF
from dimba.plan.fitting import Fit, smallest_card
from dimba.plan.job import ResolvedJob
from dimba.plan.placement import precision
from dimba.spec import JobSpec

_WEIGHTS = 0.7  # share of a GPU that the weights may take: the rest is for keys and values
_GPUS_KEY = f"trainer_args.{SAMPLER_GPUS.name}"


def trained_on(spec: JobSpec, gpus: Sequence[Gpu]) -> Sequence[Gpu]:
    """The GPUs that train: all but the last ones, if vLLM samples on those alone.

    Raises:
        HostCannot: none is left to train on.
        BadInput: the GPUs are of several machines.
    """
    sampler = spec.objective.sampler(spec.trainer_args)
    if sampler is None or not sampler.is_served or not gpus:
        return gpus
    if spec.resources.nodes > 1:
        hint = f"leave out `{SAMPLER_GPUS.name}`: vLLM then shares the GPUs of training"
        raise BadInput("vLLM samples on GPUs of its own on one machine only", hint, key=_GPUS_KEY)
    if sampler.gpus >= len(gpus):
        have = f"{quantity(sampler.gpus, 'GPU')} to sample on leave none of {len(gpus)} to train on"
        raise HostCannot(have, f"lower `{SAMPLER_GPUS.name}`, or more in `resources.gpus`", key=_GPUS_KEY)
    return gpus[: len(gpus) - sampler.gpus]


def sampler_problems(fit: Fit, facts: HostFacts) -> list[DimbaError]:
    """The reasons why the sampler of one of the project's own trainers cannot work in this job."""
    sampler = fit.job.objective.sampler(fit.job.trainer_args)
    if sampler is None or not fit.ours:
        return []
    if refusal := sampler.refusal(fit.job.method, on_cpu=not fit.gpus, is_sharded=fit.shards > 1):
        return [BadInput(refusal.detail, refusal.hint, key=f"trainer_args.{refusal.key.removeprefix('--')}")]
    is_here = facts.image is not None or facts.slurm is not None or "vllm" in facts.packages
    if sampler.is_vllm and not is_here:
        install = "-r docker/requirements-vllm.txt -c docker/constraints-vllm.txt"
        hint = f"`{facts.python} -m pip install {install}`, or `runner: docker`, whose image has it"
        return [HostCannot("vLLM is not installed here, where the job would run", hint, key=_key(sampler))]
    return _too_small(fit, facts, sampler) if sampler.is_served else []


def _too_small(fit: Fit, facts: HostFacts, sampler: Sampler) -> list[DimbaError]:
    """The refusal of GPUs whose memory the weights alone nearly fill; their size must be known."""
    weights, card = HALF * (facts.checkpoint.parameters or 0) // sampler.gpus, smallest_card(facts.gpu.gpus)
    if card is None or weights <= _WEIGHTS * card or not fit.job.spec.resources.memory_check:
        return []
    what = f"vLLM needs {size(weights)} for weights on each GPU of its own, which has {size(card)}"
    return [HostCannot(what, f"raise `{SAMPLER_GPUS.name}`: they share the weights", key=_GPUS_KEY)]


def sampler_environment(fit: Fit, facts: HostFacts, gpus: Sequence[Gpu], *, python: str) -> dict[str, str]:
    """The variables by which the supervisor starts the server that samples on GPUs of its own; none without one."""
    job = fit.job
    sampler = job.objective.sampler(job.trainer_args)
    if sampler is None or not sampler.is_served or not gpus or not fit.ours:
        return {}
    command = [python, "-m", "dimba.trainers.objectives.grpo.sampling.server"]
    command += ["--model", facts.checkpoint.reference, "--gpus", str(sampler.gpus)]
    command += ["--max-length", str(job.max_length), "--seed", str(job.spec.training.seed)]
    command += ["--dtype", "float16" if precision(job, gpus) == "fp16" else "bfloat16"]
    command += ["--trust-remote-code"] if job.trainer_args.get(TRUST_REMOTE_CODE.name) is True else []
    return {ENV_SAMPLER: json.dumps(command), ENV_SAMPLER_GPUS: str(sampler.gpus)}


def _key(sampler: Sampler) -> str:
    return f"trainer_args.{sampler.flag.removeprefix('--')}"


def sampler_choice(job: ResolvedJob, family: Family, *, on_cpu: bool) -> tuple[str, ...]:
    """What samples completions, and where, in words; empty if nothing is sampled."""
    sampler = job.objective.sampler(job.trainer_args)
    if sampler is None:
        return ()
    if not family.generates:
        return ("completions sampled by blocks of masked tokens",)
    if sampler.is_served:
        return (f"completions sampled by vLLM on {quantity(sampler.gpus, 'GPU')} of its own",)
    if sampler.is_vllm:
        return ("completions sampled by vLLM on the GPUs of training; it sleeps during a step",)
    if sampler.name == CONTINUOUS:
        slow = " (as asked; slower than padded batches on a CPU)" if on_cpu else ""
        return (f"completions sampled by transformers in continuous batches{slow}",)
    why = " (as asked)" if sampler.name == TRANSFORMERS else ""
    assert sampler.name in (AUTO, TRANSFORMERS)
    return (f"completions sampled by transformers{why}",)
