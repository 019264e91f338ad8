"""What the host asks a loaded model, and the names of the lines between them. Standard library only.

The host sends one JSON object a line: `load`, then `ask`, `batch`, `score`, `reward`, `tasks` or `stop`. The model's
process answers with `note`, `ready`, `text` or `reasoning` (parts of an answer as they come), `row` (a complete answer,
the loss of a row, or what a task finds), `done` and `error`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

LOAD, ASK, BATCH, SCORE, REWARD, TASKS, STOP = "load", "ask", "batch", "score", "reward", "tasks", "stop"
NOTE, READY, TEXT, REASONING, ROW, DONE, ERROR = "note", "ready", "text", "reasoning", "row", "done", "error"
END, LENGTH, STOPPED, REFUSED = "end", "length", "stopped", "refused"  # why an answer ends

ENGINES = TRANSFORMERS, VLLM = ("transformers", "vllm")  # of `dimba serve`

Messages = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen: the likeliest at temperature 0, else drawn; a seed draws the same again."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    seed: int = 0
    max_new_tokens: int = 512
    # Of masked diffusion: steps and tokens of a block, and how far the logits move away from those without the prompt.
    diffusion_steps: int | None = None
    block_length: int | None = None
    guidance: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The value as JSON, without what is not set."""
        return {name: value for name, value in asdict(self).items() if value is not None}


SHARED = ("temperature", "seed", "max_new_tokens")  # what every model samples with


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A chat that ends with a question, or a text to continue that no template is applied to.

    `number` is its place in a file, which also decides what is drawn for it.
    """

    messages: Messages
    text: str | None = None
    tools: tuple[Any, ...] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the chat template
    splits_calls: bool = False  # whether the answer has calls of tools apart from its text
    number: int = 0

    def as_json(self) -> dict[str, Any]:
        """The value as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Prompt":
        """Reads `as_json`."""
        tools = value.get("tools")
        return cls(
            messages=tuple(value["messages"]),
            text=value.get("text"),
            tools=tuple(tools) if tools else None,
            arguments=value.get("arguments") or {},
            splits_calls=bool(value.get("splits_calls")),
            number=int(value.get("number", 0)),
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A complete answer: its text, the reasoning apart, why it ended, and the tokens of prompt and answer."""

    text: str
    reasoning: str = ""
    calls: tuple[Mapping[str, str], ...] = ()  # of tools: `name`, and `arguments` as JSON; `text` is without them
    finish: str = END
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float = 0.0
    number: int = 0
    error: str = ""  # why there is no answer

    def as_json(self) -> dict[str, Any]:
        """The value as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Answer":
        """Reads `as_json`; ignores unknown keys."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: item for key, item in value.items() if key in known})


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How rows are scored: as a run trained them, or as a run would by default.

    `max_length` tokens are read of a row, without one the model's context; `on_long` is that of the trainers.
    """

    train_on: str = "all"
    max_length: int | None = None
    on_long: str | None = None
    batch_size: int = 16

    def as_json(self) -> dict[str, Any]:
        """The value as JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class RowLoss:
    """The loss of a row in nats, summed over its trained tokens; `error`: why it has none."""

    number: int
    nats: float = 0.0
    tokens: int = 0  # with a loss
    cut: int = 0  # tokens that were not read
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """The value as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "RowLoss":
        """Reads `as_json`; ignores unknown keys."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: item for key, item in value.items() if key in known})
