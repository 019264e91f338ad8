"""Options of every trainer of dimba, as frozen typed values."""

from dataclasses import dataclass

from dimba.options import lora_table, optimiser_table, speed_table, table, template_table, tracking_table
from dimba.options.param import option


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """Base, data, method, optimisation and output of a training run."""

    base_checkpoint: str = option(table.BASE, required=True)
    base_revision: str | None = option(table.BASE_REVISION)
    dataset: str = option(table.DATASET, default="", help=f"{table.DATASET.help}; this or --mixture")
    mixture: tuple[str, ...] = option(table.MIXTURE)
    dataset_config: str | None = option(table.DATASET_CONFIG)
    dataset_split: str | None = option(table.DATASET_SPLIT, help=f"{table.DATASET_SPLIT.help} (default: train)")
    dataset_revision: str | None = option(table.DATASET_REVISION)
    columns: tuple[str, ...] = option(table.COLUMNS)
    allow_pickle: bool = option(table.ALLOW_PICKLE)
    trust_remote_code: bool = option(table.TRUST_REMOTE_CODE)
    output_dir: str = option(table.OUTPUT_DIR, required=True)

    use_lora: bool = option(table.USE_LORA)
    use_qlora: bool = option(table.USE_QLORA)
    lora_r: int = option(table.LORA_R)
    lora_alpha: int = option(table.LORA_ALPHA)
    lora_dropout: float = option(lora_table.DROPOUT)
    lora_target_modules: tuple[str, ...] = option(lora_table.TARGET_MODULES)
    lora_modules_to_save: tuple[str, ...] = option(lora_table.MODULES_TO_SAVE)
    lora_trainable_tokens: tuple[str, ...] = option(lora_table.TRAINABLE_TOKENS)
    use_rslora: bool = option(lora_table.USE_RSLORA)
    use_dora: bool = option(lora_table.USE_DORA)
    lora_init: str = option(lora_table.INIT)

    batch_size: int = option(table.BATCH_SIZE)
    grad_accumulation_steps: int = option(table.ACCUMULATION)
    epochs: float = option(table.EPOCHS)
    max_steps: int | None = option(table.MAX_STEPS)
    learning_rate: float = option(table.LEARNING_RATE)
    scheduler: str = option(optimiser_table.SCHEDULER)
    warmup: float = option(optimiser_table.WARMUP)
    weight_decay: float = option(optimiser_table.WEIGHT_DECAY)
    max_grad_norm: float = option(optimiser_table.MAX_GRAD_NORM)
    optimizer: str = option(optimiser_table.OPTIMIZER)
    max_length: int = option(table.MAX_LENGTH)
    seed: int = option(table.SEED)

    skip_bad_rows: bool = option(table.SKIP_BAD_ROWS)
    chat_template_kwargs: str | None = option(template_table.CHAT_TEMPLATE_KWARGS)
    template_date: str | None = option(template_table.TEMPLATE_DATE)
    control_tokens: str = option(template_table.CONTROL_TOKENS)
    validation_split: float | str | None = option(table.VALIDATION_SPLIT)

    device: str = option(table.DEVICE)
    kernels: str = option(speed_table.KERNELS)
    compile: str = option(speed_table.COMPILE)
    activation_checkpointing: int | str = option(speed_table.ACTIVATION_CHECKPOINTING)
    save_steps: int = option(table.SAVE_STEPS)
    save_total_limit: int = option(table.SAVE_TOTAL_LIMIT)
    report_to: tuple[str, ...] = option(tracking_table.REPORT_TO, default=[tracking_table.NO_TRACKER])
    resume_from_checkpoint: str | None = option(table.RESUME)

    @property
    def method(self) -> str:
        """`full`, `lora` or `qlora`; `--use-qlora` with or without `--use-lora` is Q-LoRA."""
        return "qlora" if self.use_qlora else "lora" if self.use_lora else "full"

    @property
    def ranks_per_row(self) -> int:
        """The number of ranks that share each row; 1 where each has rows of its own."""
        return 1

    @property
    def model_checkpoints(self) -> tuple[str, ...]:
        """The folders and Hub ids of all models that are loaded."""
        return (self.base_checkpoint,)


def column_names(pairs: tuple[str, ...]) -> dict[str, str]:
    """`["prompt=question"]` as {"prompt": "question"}; raises ValueError for text that is not a pair."""
    wrong = [pair for pair in pairs if not all(pair.partition("="))]
    if wrong:
        raise ValueError(f"--columns: `{wrong[0]}` is not OURS=YOURS")
    return {ours: theirs for ours, _, theirs in (pair.partition("=") for pair in pairs)}
