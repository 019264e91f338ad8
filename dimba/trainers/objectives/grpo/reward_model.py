"""The training of a reward model on preference pairs; later runs with the same pairs and base reuse it."""

import errno
import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import constants
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import RewardConfig, RewardTrainer

from dimba.common.checkpoints import newest_checkpoint
from dimba.common.contract import EVAL_FILE, OWNER_FILE, absolute
from dimba.common.errors import BadInput
from dimba.dataset.prompt_examples import PromptExample
from dimba.objectives.grpo import GrpoOptions
from dimba.options.lora_table import ALL_LINEAR
from dimba.options.optimiser_table import OPTIMIZER
from dimba.options.tracking_table import NO_TRACKER
from dimba.trainers.data.prompt_rendering import chat_ids
from dimba.trainers.data.token_store import record_use
from dimba.trainers.models.adapters import adapt_joined_experts, left_out
from dimba.trainers.models.checkpoints import CompleteCheckpoints
from dimba.trainers.models.loading import Compute, load_classifier
from dimba.trainers.models.precision import Precision
from dimba.trainers.models.rehearsal import rehearse
from dimba.trainers.models.saving import write_model
from dimba.trainers.objectives.callbacks import Metrics, StopOnSignal, metrics_path
from dimba.trainers.objectives.grpo.evaluation import pair_chat
from dimba.trainers.objectives.grpo.prompts import Prompts
from dimba.trainers.objectives.grpo.scoring import new_head_expected
from dimba.trainers.objectives.run_settings import configure, run_settings
from dimba.trainers.ranks import is_main_process, world_size

_PAIRS_PER_STEP = 16
_RANK = 16
_NOTES = (OWNER_FILE, EVAL_FILE)  # files in a model's folder that are no part of the model
_METRICS_FILE = "reward_model.jsonl"
# Options of the policy do not change the reward model, which all jobs on these pairs share.
_OWN_SETTINGS = {
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "optim": OPTIMIZER.default,
    "report_to": NO_TRACKER,
}
_ADAPTER_FILE = "adapter_config.json"


class PairTrainer(CompleteCheckpoints, RewardTrainer):
    """TRL's trainer of reward models, with complete checkpoints only."""


def train_or_reuse(
    options: GrpoOptions, prompts: Prompts, pairs: Sequence[PromptExample], compute: Compute, stop: StopOnSignal
) -> str | None:
    """The folder of the reward model, trained now unless it exists; None if training was stopped."""
    folder = model_folder(options, prompts, pairs)
    if (folder / _ADAPTER_FILE).is_file():
        if is_main_process():
            print(f"reward model: reused, trained earlier on the same pairs and base: {folder}", flush=True)
        record_use(folder / _ADAPTER_FILE)
        return str(folder)
    data = _dataset(options, prompts.tokenizer, pairs)
    if is_main_process():
        print(f"stage 1 of 2: a reward model, from {len(data):,} pairs", flush=True)
    trainer = _trainer(options, prompts.tokenizer, data, part_folder(folder, options.output_dir), compute)
    trainer.add_callback(stop)
    return str(folder) if _train(trainer, folder, options.base_checkpoint, stop) else None


def _train(trainer: PairTrainer, folder: Path, base: str, stop: StopOnSignal) -> bool:
    """Train and move the model to `folder`, from the newest checkpoint if there is one; False if it was stopped."""
    part = Path(trainer.args.output_dir)
    rehearse(trainer, Precision(), [], base)
    if (checkpoint := newest_checkpoint(part)) and is_main_process():
        print(f"resuming the reward model from {checkpoint}", flush=True)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.stopped:
        return False
    write_model(trainer, str(part / "model"))
    if is_main_process():
        keep(part, folder)
        print("stage 2 of 2: GRPO against it", flush=True)
    trainer.accelerator.wait_for_everyone()
    return True


def part_folder(folder: Path, output_dir: str) -> Path:
    """The job's own folder for training it: other jobs may train the same model at the same time."""
    job = hashlib.sha256(str(absolute(output_dir)).encode(errors="surrogateescape")).hexdigest()[:8]
    return folder.with_suffix(f".{job}.part")


def keep(part: Path, folder: Path) -> None:
    """Move the trained model to `folder`, unless another job has put an equivalent one there."""
    try:
        (part / "model").rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    shutil.rmtree(part)


def model_folder(options: GrpoOptions, prompts: Prompts, pairs: Sequence[PromptExample]) -> Path:
    """The folder for a reward model of these pairs, this base and these settings, shared by all runs."""
    settings = (
        *(options.seed, options.max_length, options.reward_epochs),
        *(options.reward_learning_rate, options.use_qlora),
    )
    digest = hashlib.sha256(json.dumps([*settings, base_identity(options.base_checkpoint)], default=str).encode())
    digest.update(str(prompts.tokenizer.chat_template).encode())
    for pair in pairs:
        digest.update(json.dumps([pair.messages, pair.chosen, pair.rejected], default=str).encode())
    return Path(constants.HF_HOME, "dimba", "rewards", digest.hexdigest()[:32])


def base_identity(checkpoint: str) -> list[Any]:
    """The checkpoint's files with sizes and times: reading all weights would take as long as loading them."""
    folder = absolute(checkpoint)
    if not folder.is_dir():
        return [checkpoint]
    kinds = (".safetensors", ".json", ".jinja")
    files = sorted(each for each in folder.iterdir() if each.suffix in kinds and each.name not in _NOTES)
    return [str(folder), *((each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files)]


def fitting_pairs(
    options: GrpoOptions, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[PromptExample]
) -> list[tuple[PromptExample, list[int], list[int]]]:
    """The pairs whose two chats fit into `max_length` tokens, with the tokens of both; a cut pair compares nothing."""
    sides = [chat_ids(tokenizer, [pair_chat(pair, chosen=chosen) for pair in pairs]) for chosen in (True, False)]
    tokenized = zip(pairs, *sides, strict=True)
    return [(pair, one, other) for pair, one, other in tokenized if max(len(one), len(other)) <= options.max_length]


def _dataset(options: GrpoOptions, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[PromptExample]) -> Dataset:
    fitting, longest = fitting_pairs(options, tokenizer, pairs), options.max_length
    if len(fitting) < len(pairs) and is_main_process():
        print(f"reward model: {len(pairs) - len(fitting):,} pairs are longer than {longest:,} tokens and are skipped")
    if not fitting:
        raise BadInput(f"every pair is longer than {longest:,} tokens", "raise `training.max_length`")
    _, chosen, rejected = zip(*fitting, strict=True)
    return Dataset.from_dict({"chosen_ids": chosen, "rejected_ids": rejected})


def _trainer(
    options: GrpoOptions, tokenizer: PreTrainedTokenizerBase, data: Dataset, part: Path, compute: Compute
) -> PairTrainer:
    metrics = Metrics(metrics_path(options.output_dir).with_name(_METRICS_FILE))
    set_seed(options.seed)  # the new head is random
    with new_head_expected():
        model = load_classifier(options.base_checkpoint, options, compute)
        trainer = PairTrainer(
            model=model,
            args=_config(options, part, compute),
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=_adapter(model),
            callbacks=[metrics],
        )
    configure(trainer)
    return trainer


def _adapter(model: PreTrainedModel) -> LoraConfig:
    """On every linear layer but the routers of experts, and a new head."""
    config = LoraConfig(
        r=_RANK,
        lora_alpha=2 * _RANK,
        target_modules=ALL_LINEAR,
        exclude_modules=left_out(model),
        modules_to_save=["score"],
        task_type="SEQ_CLS",
    )
    adapt_joined_experts(config, model, routers=False)
    return config


def _config(options: GrpoOptions, part: Path, compute: Compute) -> RewardConfig:
    batch = min(options.batch_size, _PAIRS_PER_STEP)
    return RewardConfig(
        output_dir=str(part),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=max(1, math.ceil(_PAIRS_PER_STEP / (batch * world_size()))),
        num_train_epochs=options.reward_epochs,
        learning_rate=options.reward_learning_rate,
        max_length=None,  # longer pairs are skipped before, with a message
        **run_settings(options, compute, can_fall_back=False) | _OWN_SETTINGS,
    )
