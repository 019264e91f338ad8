"""The reward of preference pairs: a reward model is trained on them first, and tested before it is trusted."""

import errno
import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimba.common.checkpoints import newest_whole
from dimba.common.contract import absolute
from dimba.common.errors import BadInput, Location
from dimba.dataset.prompt_examples import PromptExample
from dimba.objectives.grpo import GrpoOptions
from dimba.trainers.command import is_first_rank, world_size
from dimba.trainers.data.prompt_rendering import chat_ids
from dimba.trainers.data.token_store import record_use
from dimba.trainers.models.checkpoints import CompleteCheckpoints
from dimba.trainers.models.loading import Compute, load_classifier
from dimba.trainers.models.saving import write_model
from dimba.trainers.objectives.callbacks import Metrics, metrics_path
from dimba.trainers.objectives.grpo.scoring import Scorer, load_scorer, no_noise
from dimba.trainers.objectives.grpo.verdict import judge, split_by_question, whole
from dimba.trainers.objectives.run_settings import run_settings, settled

if TYPE_CHECKING:
    from dimba.trainers.objectives.grpo.prompts import Prompts
    from dimba.trainers.rewards import Answers

_PAIRS_A_STEP = 16
_RANK = 16
_LOGGED = "reward_model.jsonl"


class PreferenceReward:
    """The score of a reward model; logs how often samples beat the chosen answers (`win_rate`)."""

    name = "preference"

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._chosen: dict[Location, float] = {}

    def __call__(self, answers: "Answers") -> list[float | None]:
        """One score a completion."""
        said = [{"role": "assistant", "content": text} for text in answers.texts]
        scores = self._scorer([(*task.messages, each) for task, each in zip(answers.tasks, said, strict=True)])
        chosen = self._scores_of_chosen(answers)
        wins = sum(score > other for score, other in zip(scores, chosen, strict=True))
        if log := answers.extras.get("log_metric"):
            log("win_rate", wins / len(scores))
        return list(scores)

    def _scores_of_chosen(self, answers: "Answers") -> list[float]:
        tasks = dict(zip(answers.places, answers.tasks, strict=True))
        new = [where for where in tasks if where not in self._chosen]
        self._chosen.update(zip(new, self._scorer([whole(tasks[where], chosen=True) for where in new]), strict=True))
        return [self._chosen[where] for where in answers.places]


def preference_reward(args: GrpoOptions, prompts: "Prompts", compute: Compute, stop: Any) -> PreferenceReward | None:
    """A reward model for the pairs: the given one, one made before, or one trained now; None where that was stopped.

    Raises:
        BadInput: there are too few pairs, or it is right on too few of the held-out ones.
    """
    train, held_out = split_by_question(prompts.train, args.seed)
    # What is cut would compare nothing, as in training; a test on some of it is better than none.
    held_out = [task for task, *_ in _fitting(args, prompts.tokenizer, held_out)] or held_out
    place = args.reward_model or _made(args, prompts, train, compute, stop)
    if place is None:
        return None
    scorer = load_scorer(place, args, prompts.tokenizer, compute)
    verdict = judge(scorer, train, held_out)
    if is_first_rank():
        print("\n".join(verdict.lines()), flush=True)
    verdict.check(allow_weak=args.allow_weak_reward)
    return PreferenceReward(scorer)


def _made(
    args: GrpoOptions, prompts: "Prompts", train: Sequence[PromptExample], compute: Compute, stop: Any
) -> str | None:
    """The folder of the reward model, trained now unless it was made before; None where that was stopped."""
    folder = model_folder(args, prompts, train)
    if (folder / "adapter_config.json").is_file():
        if is_first_rank():
            print(f"reward model: made before from the same pairs and base: {folder}", flush=True)
        record_use(folder / "adapter_config.json")
        return str(folder)
    data = _dataset(args, prompts.tokenizer, train)
    if is_first_rank():
        print(f"stage 1 of 2: a reward model, from {len(data):,} pairs", flush=True)
    part = part_folder(folder, args.output_dir)
    trainer = _trainer(args, prompts.tokenizer, data, part, compute)
    trainer.add_callback(stop)
    if (begun := newest_whole(part)) and is_first_rank():
        print(f"going on from {begun}", flush=True)
    trainer.train(resume_from_checkpoint=str(begun) if begun else None)
    if stop.stopped:
        return None
    write_model(trainer, str(part / "model"))
    if is_first_rank():
        (part / "model" / "training_args.bin").unlink(missing_ok=True)
        keep(part, folder)
        print("stage 2 of 2: GRPO against it", flush=True)
    trainer.accelerator.wait_for_everyone()
    return str(folder)


def part_folder(folder: Path, output_dir: str) -> Path:
    """Where it is trained: a place of the job's own, as others may train the same model at the same time."""
    job = hashlib.sha256(str(absolute(output_dir)).encode(errors="surrogateescape")).hexdigest()[:8]
    return folder.with_suffix(f".{job}.part")


def keep(part: Path, folder: Path) -> None:
    """Puts what was trained in its place, unless another job was quicker: its model is as good."""
    try:
        (part / "model").rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    shutil.rmtree(part)


def model_folder(args: GrpoOptions, prompts: "Prompts", train: Sequence[PromptExample]) -> Path:
    """Where the reward model of these pairs, this base and these settings is kept, for other runs too."""
    from huggingface_hub.constants import HF_HOME

    settings = (args.seed, args.max_length, args.reward_epochs, args.reward_learning_rate, args.use_qlora)
    digest = hashlib.sha256(json.dumps([*settings, _base_identity(args.base_checkpoint)], default=str).encode())
    digest.update(str(prompts.tokenizer.chat_template).encode())
    for task in train:
        digest.update(json.dumps([task.messages, task.chosen, task.rejected], default=str).encode())
    return Path(HF_HOME, "dimba", "rewards", digest.hexdigest()[:32])


def _base_identity(checkpoint: str) -> list[Any]:
    """The checkpoint's files, their sizes and times: reading all weights would take as long as loading them."""
    folder = absolute(checkpoint)
    if not folder.is_dir():
        return [checkpoint]
    files = sorted(each for each in folder.iterdir() if each.suffix in (".safetensors", ".json", ".jinja"))
    return [str(folder), *((each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files)]


def _fitting(
    args: GrpoOptions, tokenizer: Any, tasks: Sequence[PromptExample]
) -> list[tuple[PromptExample, list[int], list[int]]]:
    """The pairs of which both sides are short enough, with their tokens."""
    sides = [chat_ids(tokenizer, [whole(task, chosen=chosen) for task in tasks]) for chosen in (True, False)]
    pairs = zip(tasks, *sides, strict=True)
    return [(task, one, other) for task, one, other in pairs if max(len(one), len(other)) <= args.max_length]


def _dataset(args: GrpoOptions, tokenizer: Any, train: Sequence[PromptExample]) -> Any:
    from datasets import Dataset

    fitting = _fitting(args, tokenizer, train)
    if len(fitting) < len(train) and is_first_rank():
        print(f"reward model: {len(train) - len(fitting):,} pairs are longer than {args.max_length:,} tokens: left out")
    if not fitting:
        raise BadInput(f"every pair is longer than {args.max_length:,} tokens", "raise `training.max_length`")
    _, chosen, rejected = zip(*fitting, strict=True)
    return Dataset.from_dict({"chosen_ids": chosen, "rejected_ids": rejected})


def _trainer(args: GrpoOptions, tokenizer: Any, data: Any, part: Path, compute: Compute) -> Any:
    from peft import LoraConfig
    from transformers import set_seed
    from trl import RewardTrainer

    class PairTrainer(CompleteCheckpoints, RewardTrainer):
        """TRL's, with checkpoints that are whole or not there."""

    adapter = LoraConfig(
        r=_RANK, lora_alpha=2 * _RANK, target_modules="all-linear", modules_to_save=["score"], task_type="SEQ_CLS"
    )
    metrics = Metrics(metrics_path(args.output_dir).with_name(_LOGGED))
    set_seed(args.seed)  # the new head is random
    with no_noise():
        trainer = PairTrainer(
            model=load_classifier(args.base_checkpoint, args, compute),
            args=_config(args, part, compute),
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=[metrics],
        )
    return settled(trainer)


def _config(args: GrpoOptions, part: Path, compute: Compute) -> Any:
    from trl import RewardConfig

    batch = min(args.batch_size, _PAIRS_A_STEP)
    return RewardConfig(
        output_dir=str(part),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=max(1, math.ceil(_PAIRS_A_STEP / (batch * world_size()))),
        num_train_epochs=args.reward_epochs,
        learning_rate=args.reward_learning_rate,
        max_length=None,  # what is too long is left out before, and said
        **run_settings(args, compute, can_fall_back=False),
    )
