"""GRPO, from flags to a saved model: prompts, rewards, groups of completions, and what came of it."""

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dimba.common.contract import EXIT_STOPPED
from dimba.common.errors import BadInput
from dimba.objectives.batches import group_steps_per_epoch, total_steps, whole_groups
from dimba.objectives.grpo import BETA_WITH_REWARD_MODEL, GRPO, GrpoOptions
from dimba.objectives.rewards import reward_label
from dimba.trainers.command import is_first_rank, say_rows, world_size
from dimba.trainers.models.checkpoints import where_to_go_on
from dimba.trainers.models.saving import output_folder, quiet, save, stop_where_turns_end
from dimba.trainers.models.sharding import is_asked
from dimba.trainers.objectives.grpo.samples import held_out_line, introduce_prompts, show_samples

if TYPE_CHECKING:
    from dimba.dataset.token_report import DataReport
    from dimba.trainers.data.tokenization import Progress
    from dimba.trainers.models.loading import Compute
    from dimba.trainers.objectives.callbacks import StopOnSignal
    from dimba.trainers.objectives.grpo.prompts import Prompts
    from dimba.trainers.rewards import Reward


def train(args: GrpoOptions) -> int:
    """Trains as `args` say; returns the exit status: 0, or EXIT_STOPPED where it was told to stop and saved."""
    with output_folder(args):
        begun = where_to_go_on(args.resume_from_checkpoint)
        ready = _prepared(args)
    if ready is None:
        return EXIT_STOPPED
    trainer, held_out, stop = ready
    if not is_asked():  # the weights are shared out as training begins, and sampling wants them on the cards
        held_out.test("before")
    trainer.train(resume_from_checkpoint=begun)
    if stop.stopped:
        return EXIT_STOPPED
    save(trainer, args.output_dir)  # first of all: a test asks rewards, which may fail
    held_out.test("after")
    if is_first_rank():
        show_samples(trainer.samples())
    return 0


def report(options: GrpoOptions, progress: "Progress") -> "DataReport":
    """The prompts as training would read them; raises BadInput."""
    from dimba.trainers.objectives.grpo.prompts import load_prompts

    return load_prompts(options, progress).report


def _prepared(args: GrpoOptions) -> "tuple[Any, _HeldOut, StopOnSignal] | None":
    """(trainer, test on held-out prompts, stop); None where training a reward model was told to stop."""
    quiet()
    from dimba.trainers.models import loading
    from dimba.trainers.objectives.callbacks import StopOnSignal
    from dimba.trainers.objectives.grpo.prompts import load_prompts

    compute = loading.choose_compute(args.device, samples=True)
    check_vllm(args, compute)
    prompts = load_prompts(args, say_rows()).checked()
    if is_first_rank():
        introduce_prompts(prompts.report)
    stop = StopOnSignal()
    rewards = _rewards(args, prompts, compute, stop)
    if stop.stopped:
        return None
    trainer, metrics = make_trainer(args, prompts, rewards, compute, stop)
    return trainer, _HeldOut(trainer, prompts, metrics), stop


def check_vllm(args: GrpoOptions, compute: "Compute") -> None:
    """Refuses vLLM where it is known not to work, with the reason."""
    if not args.use_vllm:
        return
    without = "leave --use-vllm out: transformers samples then"
    if args.use_qlora:
        raise BadInput("--use-vllm: vLLM cannot take over the weights of a base in 4 bits (Q-LoRA)", without)
    if compute.on_cpu:
        raise BadInput("--use-vllm: vLLM shares the GPU that trains, and this trains on the CPU", without)
    if find_spec("vllm") is None:
        lists = "-r docker/requirements-vllm.txt -c docker/constraints-vllm.txt"
        raise BadInput("--use-vllm: vLLM is not installed here", f"`pip install {lists}`, or {without}")


def _beta(args: GrpoOptions, prompts: "Prompts") -> float:
    """The weight of staying close to the start, as given or as the reward wants it."""
    return args.beta if args.beta is not None else BETA_WITH_REWARD_MODEL if _is_learnt(prompts) else 0.0


def _is_learnt(prompts: "Prompts") -> bool:
    return any(spec.name == "preference" for spec in prompts.rewards)


def _rewards(args: GrpoOptions, prompts: "Prompts", compute: "Compute", stop: Any) -> "Sequence[Reward]":
    """The rewards, ready to be given: functions of the user's own tried first, a reward model trained."""
    from dimba.trainers.objectives.grpo.groups import first_answers
    from dimba.trainers.rewards import make_rewards, probe

    rewards: list[Reward] = []
    tried = first_answers(prompts, args.max_completion_length, planned_steps(args, len(prompts.train)))
    for spec in prompts.rewards:
        if spec.name == "preference":
            from dimba.trainers.objectives.grpo.reward_model import preference_reward

            if learnt := preference_reward(args, prompts, compute, stop):
                rewards.append(learnt)
            continue
        [reward] = make_rewards([spec])
        if (note := probe(reward, tried)) and is_first_rank():
            print(note, flush=True)
        rewards.append(reward)
    return rewards


class _HeldOut:
    """The greedy reward on held-out prompts, before and after."""

    def __init__(self, trainer: Any, prompts: "Prompts", metrics: Any) -> None:
        self._trainer, self._asked, self._metrics = trainer, prompts.held_out, metrics
        self._before: float | None = None
        self._label = reward_label(spec.logged for spec in prompts.rewards)

    def test(self, when: str) -> None:
        if not self._asked:
            return
        reward = self._trainer.greedy_reward(self._asked)
        if is_first_rank():
            print(held_out_line(when, reward, self._before, len(self._asked), label=self._label), flush=True)
            if reward is not None:
                self._metrics.write(self._trainer.state, {"eval_reward": reward})
        self._before = reward


def make_trainer(
    args: GrpoOptions, prompts: "Prompts", rewards: "Sequence[Reward]", compute: "Compute", stop: Any
) -> tuple[Any, Any]:
    """(the trainer, what writes its metrics); `stop` is the callback that listens to signals, or None."""
    from dimba.trainers.models.loading import adapter_config, load_model
    from dimba.trainers.models.memory import add_probe, longest_completions
    from dimba.trainers.objectives.callbacks import Metrics, metrics_path
    from dimba.trainers.objectives.grpo.alarms import Alarms
    from dimba.trainers.objectives.grpo.groups import GroupTrainer
    from dimba.trainers.objectives.run_settings import can_fall_back, settled

    path = metrics_path(args.output_dir)
    metrics = Metrics(path, ("reward",))  # the loss is about zero, whatever is learnt
    model = load_model(args, compute)
    stop_where_turns_end(model, prompts.tokenizer, prompts.turn_ends)
    trainer = GroupTrainer(
        rewards=rewards,
        asked=_filling_a_step(args, prompts),
        samples=path.with_name("samples.jsonl"),
        sample_steps=args.sample_steps,
        model=model,
        args=_config(args, prompts, compute),
        processing_class=prompts.tokenizer,
        peft_config=adapter_config(args),
        callbacks=[metrics, Alarms(), *([stop] if stop else [])],
    )
    batch = partial(
        longest_completions,
        rows=args.batch_size,
        prompt=max(1, min(prompts.report.longest, prompts.report.max_length)),
        completion=args.max_completion_length,
        reference=bool(trainer.beta),
    )
    add_probe(trainer, batch, path, may_keep=can_fall_back(args, GRPO))
    trainer.state.max_steps = planned_steps(args, len(prompts.train))  # for rewards that are asked before the first
    return settled(trainer), metrics


def _arithmetic(args: GrpoOptions) -> tuple[int, int, int]:
    """(accumulation, completions a prompt, prompts a step), with whole groups in every step."""
    processes = world_size()
    accumulation, generations = whole_groups(
        args.grad_accumulation_steps, batch_size=args.batch_size, processes=processes, generations=args.num_generations
    )
    return accumulation, generations, accumulation * args.batch_size * processes // generations


def planned_steps(args: GrpoOptions, prompts: int) -> int:
    """How many steps so many prompts are trained for."""
    *_, per_step = _arithmetic(args)
    per_epoch = group_steps_per_epoch(prompts, prompts_per_step=per_step)
    return total_steps(per_epoch, epochs=args.epochs, max_steps=args.max_steps)


def _filling_a_step(args: GrpoOptions, prompts: "Prompts") -> list[Any]:
    """The prompts, repeated where they are fewer than one step takes; says how a step is made up."""
    accumulation, generations, per_step = _arithmetic(args)
    asked = list(prompts.train)
    if is_first_rank():
        if accumulation != args.grad_accumulation_steps:
            print(f"gradient accumulation {args.grad_accumulation_steps} → {accumulation}: groups are whole then")
        print(f"a step: {per_step} prompts × {generations} completions", flush=True)
        if len(asked) < per_step:
            print(f"{len(asked)} prompts are repeated to fill a step of {per_step}", flush=True)
    return asked * -(-per_step // len(asked)) if len(asked) < per_step else asked


def _config(args: GrpoOptions, prompts: "Prompts", compute: "Compute") -> Any:
    from trl import GRPOConfig

    from dimba.trainers.objectives.run_settings import can_fall_back, run_settings

    accumulation, generations, _ = _arithmetic(args)
    return GRPOConfig(
        output_dir=args.output_dir,
        per_device_train_batch_size=args.batch_size,
        gradient_accumulation_steps=accumulation,
        num_generations=generations,
        max_completion_length=args.max_completion_length,
        temperature=args.temperature,
        beta=_beta(args, prompts),
        reward_weights=args.reward_weights,
        num_train_epochs=args.epochs,
        max_steps=args.max_steps or -1,
        learning_rate=args.learning_rate,
        # Published recipes hold the rate; one that falls would make the last prompts count less than the first.
        lr_scheduler_type="constant",
        use_vllm=args.use_vllm,
        vllm_mode="colocate",
        **run_settings(args, compute, can_fall_back=can_fall_back(args, GRPO)),
    )
