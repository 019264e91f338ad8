"""GRPO, from options to a saved model."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

from dimba.common.contract import ENV_SAMPLER_URL, EXIT_STOPPED
from dimba.common.errors import BadInput
from dimba.common.project import project_root
from dimba.objectives.grpo import GRPO, GrpoOptions
from dimba.trainers.kernels.allocator import grow_segments
from dimba.trainers.models.families import checked_family
from dimba.trainers.models.loading import Compute, check_checkpoint, choose_compute
from dimba.trainers.models.precision import base_precision
from dimba.trainers.models.rehearsal import rehearse
from dimba.trainers.models.saving import output_folder, quiet, save
from dimba.trainers.models.sharding import is_sharded
from dimba.trainers.objectives.callbacks import Metrics, StopOnSignal, metrics_path
from dimba.trainers.objectives.continuations import ROWS, last_tokens
from dimba.trainers.objectives.data_output import record_data
from dimba.trainers.objectives.grpo.group_trainer import GroupTrainer
from dimba.trainers.objectives.grpo.held_out import HeldOutTest
from dimba.trainers.objectives.grpo.output import print_prompts, print_samples
from dimba.trainers.objectives.grpo.preference import preference_reward
from dimba.trainers.objectives.grpo.prompt_loading import load_prompts
from dimba.trainers.objectives.grpo.prompts import Prompts
from dimba.trainers.objectives.grpo.sampled import trial_completions
from dimba.trainers.objectives.grpo.step_layout import planned_steps
from dimba.trainers.objectives.grpo.trainer import make_trainer
from dimba.trainers.objectives.learning import LearningProof
from dimba.trainers.objectives.resuming import beginning_of
from dimba.trainers.objectives.trackers import check_tracker
from dimba.trainers.progress import row_printer
from dimba.trainers.ranks import is_main_process
from dimba.trainers.rewards import Reward, make_reward, probe


def train(options: GrpoOptions) -> int:
    """Train and save; returns the exit status: 0, or EXIT_STOPPED for a run that was stopped and saved."""
    quiet()
    with output_folder(options):
        beginning = beginning_of(options, GRPO)
        compute = choose_compute(options.device, samples=True)
        check_sampler(options, compute)
        if not (compute.on_cpu or options.chosen_sampler.shares_gpus):
            grow_segments()
        check_tracker(options)
        checked_family(options, GRPO)
        check_checkpoint(options)
        prompts = _load_prompts(options)
        stop = StopOnSignal()
        rewards = list(_ready_rewards(options, prompts, compute, stop))
        if stop.stopped:
            return EXIT_STOPPED
        metrics = Metrics(metrics_path(options.output_dir), ("reward",))  # the loss stays about zero
        trainer = make_trainer(options, prompts, rewards, compute, [metrics, stop])
        trainer.trained_with = beginning.trained_with
        proof = _prepare_to_save(options, trainer, prompts)
    return _train(
        options, trainer, HeldOutTest(trainer, prompts, metrics), stop, checkpoint=beginning.checkpoint, proof=proof
    )


def _prepare_to_save(options: GrpoOptions, trainer: GroupTrainer, prompts: Prompts) -> LearningProof:
    """Rehearse the save, and look at the model before it is trained; raises BadInput for what cannot be saved."""
    rows = (prompts.held_out or prompts.train)[:ROWS]
    token_ids = [last_tokens(list(each.ids)) for each in rows]
    precision = base_precision(options.base_checkpoint)
    rehearse(trainer, precision, token_ids, options.base_checkpoint)
    return LearningProof(trainer, token_ids, precision, minimises=False)


def _train(
    options: GrpoOptions,
    trainer: GroupTrainer,
    test: HeldOutTest,
    stop: StopOnSignal,
    *,
    checkpoint: str | None,
    proof: LearningProof,
) -> int:
    if not is_sharded():  # FSDP2 puts the weights on the GPUs when training begins, and sampling needs them there
        test.run("before")
    trainer.train(resume_from_checkpoint=checkpoint)
    if stop.stopped:
        return EXIT_STOPPED
    save(trainer, options.output_dir, proof.precision)  # before the test, which calls reward functions that may fail
    proof.report(options.output_dir)
    test.run("after")
    if is_main_process():
        print_samples(trainer.samples())
    return 0


def check_sampler(options: GrpoOptions, compute: Compute) -> None:
    """Raise BadInput if the chosen sampler cannot work in this job."""
    sampler = options.chosen_sampler
    if refusal := sampler.refusal(options.method, on_cpu=compute.on_cpu, is_sharded=is_sharded()):
        raise refusal
    if sampler.is_vllm and find_spec("vllm") is None:
        root = project_root()
        requirements = f"-r {root}/docker/requirements-vllm.txt -c {root}/docker/constraints-vllm.txt"
        hint = f"`pip install {requirements}`, or leave out {sampler.flag}: transformers samples then"
        raise BadInput("vLLM is not installed here", hint, key=sampler.flag)
    if sampler.is_served and ENV_SAMPLER_URL not in os.environ:
        hint = "start the job with `dimba launch`, or leave out --sampler-gpus"
        raise BadInput(
            "no server samples on GPUs of its own: only `dimba launch` starts one", hint, key="--sampler-gpus"
        )


def _load_prompts(options: GrpoOptions) -> Prompts:
    prompts = load_prompts(options, row_printer()).require_usable()
    if is_main_process():
        record_data(prompts.report)
        print_prompts(prompts.report)
    return prompts


def _ready_rewards(options: GrpoOptions, prompts: Prompts, compute: Compute, stop: StopOnSignal) -> Iterator[Reward]:
    """The rewards of the job: functions are tried first, a reward model is trained; without it if that is stopped."""
    steps = planned_steps(options, len(prompts.train))
    trial = trial_completions(prompts, options.max_completion_length, steps)
    for spec in prompts.rewards:
        if spec.name == "preference":
            if preference := preference_reward(options, prompts, compute, stop):
                yield preference
            continue
        reward = make_reward(spec)
        if (note := probe(reward, trial)) and is_main_process():
            print(note, flush=True)
        yield reward
