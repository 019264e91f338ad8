"""What `dimba eval` is asked: the models, the rows, and what is measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dimba.commands.eval.judge import Judge
from dimba.commands.talk.request import BASE, require_sampling
from dimba.common.errors import BadInput
from dimba.common.inference import Sampling, Scoring
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.model_source import ModelRequest, ModelSource, find_model
from dimba.objectives.rewards import REWARDS, RewardSpec, parse_rewards
from dimba.options.table import ON_LONG, TRAIN_ON

_ELSEWHERE = ("preference", "auto")  # rewards that training makes
_KNOWN = tuple(name for name in REWARDS if name not in _ELSEWHERE)


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """The command line's part; without a `file` the rows are those that the first model's run held out."""

    models: tuple[str, ...]
    against: str = BASE
    file: Path | None = None
    columns: tuple[str, ...] = ()
    limit: int | None = None
    batch_size: int = 16
    keep_overlap: bool = False
    guard: bool = False  # general rows are scored as well
    tasks: tuple[str, ...] = ()  # names of lm-eval's, task files and folders of them
    fewshot: int | None = None  # examples in front of each document, in place of the tasks' own numbers
    plain_tasks: bool = False  # prompts of tasks are not rendered by the chat template
    trusts_task_code: bool = False
    rewards: tuple[RewardSpec, ...] = ()
    reward_model: Path | None = None
    judge: Judge | None = None
    sampling: Sampling = field(default_factory=Sampling)
    where: ModelRequest = field(default_factory=ModelRequest)

    @property
    def asks(self) -> bool:
        """Whether the models answer the rows' questions."""
        return bool(self.rewards or self.reward_model or self.judge)

    @property
    def uses_rows(self) -> bool:
        """Whether rows are measured: always, unless there are tasks and nothing else was asked."""
        return bool(self.file or self.asks or not self.tasks)

    def require_sense(self) -> None:
        """Raises BadInput for a reward that is not available here, or options of tasks without any."""
        if not self.tasks and (self.fewshot is not None or self.plain_tasks or self.trusts_task_code):
            raise BadInput("--fewshot, --plain-tasks and --trust-task-code are for tasks", "name some with `--tasks`")
        if foreign := next(filter(_is_foreign, self.rewards), None):
            problem = f"the reward `{foreign}` is not for answers of `dimba eval`"
            raise BadInput(problem, f"name one of {', '.join(_KNOWN)}")
        if self.reward_model and not (self.reward_model / "config.json").is_file():
            problem = f"{self.reward_model} holds no reward model: it has no config.json"
            raise BadInput(problem, "give a folder with a model for sequence classification, with one output")

    def with_rewards_of(self, run: str, rewards: Sequence[str]) -> "EvalRequest":
        """The request with the rewards that a run trained for, unless another measure is asked for; raises BadInput."""
        if self.asks or not rewards:
            return self
        found = parse_rewards(rewards)
        if foreign := next(filter(_is_foreign, found), None):
            problem = f"run {run} held prompts out, whose answers its reward `{foreign}` scores: `dimba eval` lacks it"
            raise BadInput(problem, f"name a reward, `--reward NAME` ({', '.join(_KNOWN)}), or a `--judge`")
        return replace(self, rewards=found)


def _is_foreign(spec: RewardSpec) -> bool:
    """Whether only training has the reward: its file is not there, or a model of its own scores."""
    return bool(spec.file) or spec.name in _ELSEWHERE or (spec.name == "json_valid" and bool(spec.parameter))


@dataclass(frozen=True, kw_only=True)
class Contestants:
    """The models that are compared, and the one that they are compared with."""

    models: tuple[ModelSource, ...]
    against: ModelSource
    is_base: bool  # of the first model

    @property
    def name(self) -> str:
        """What the others are compared with, in words."""
        if self.is_base:
            return "its base" if len(self.models) == 1 else "the base"
        return self.against.name

    @property
    def every(self) -> tuple[ModelSource, ...]:
        """All of them."""
        return (*self.models, self.against)

    @property
    def loss(self) -> str:
        """What their rows are scored by; empty if that differs, so that it cannot be compared."""
        first, *others = (each.family.loss for each in self.every)
        return first if all(each == first for each in others) else ""

    def require_measures(self, request: EvalRequest) -> None:
        """Raises BadInput for what one of the models is not measured by."""
        require_sampling(self.every, request.sampling)
        for each in self.every if request.tasks else ():
            if refusal := each.family.tasks:
                raise BadInput(f"{each.name} {refusal.problem}", refusal.hint, key="--tasks")
        if self.loss or (request.asks and not request.guard):
            return
        hint = "leave out `--guard`" if request.asks else "compare their answers, such as with `--reward numeric`"
        raise BadInput(self.difference, hint)

    @property
    def difference(self) -> str:
        """Why the losses of two of them do not compare, in words."""
        against = self.against.family
        other = next(each for each in self.models if each.family.loss != against.loss)
        pair = f"the {other.family.loss} of {other.name} and the {against.loss} of {self.against.name}"
        return f"{pair} do not compare: a bound lies above the loss"


def find_contestants(request: EvalRequest, reporter: Reporter) -> Contestants:
    """The models that the request names; raises BadInput."""
    first, *others = (find_model(each, request.where, reporter) for each in request.models)
    if twice := next((each for each in others if each.folder == first.folder), None):
        raise BadInput(f"{twice.folder} is named twice", "name each model once")
    if request.against != BASE:
        against = find_model(request.against, replace(request.where, base=None), reporter)
        return Contestants(models=(first, *others), against=against, is_base=False)
    return Contestants(models=(first, *others), against=_base_of(first), is_base=True)


def _base_of(source: ModelSource) -> ModelSource:
    if not (source.trained.is_adapter or source.record):
        problem = f"{source.folder} does not name its base"
        folder = f"./{BASE}" if Path(BASE).is_dir() else "RUN|FOLDER"
        raise BadInput(problem, f"name what it is compared with: `--against {folder}`")
    return source.of_base()


def scoring_of(source: ModelSource, batch_size: int) -> Scoring:
    """How the run of a model trained its rows; the defaults for a model without a run."""
    if source.record is None:
        return Scoring(batch_size=batch_size)
    flags, on_long = source.spec.trainer_args, source.spec.trainer_args.get(ON_LONG.name)
    return Scoring(
        train_on=str(flags.get(TRAIN_ON.name, TRAIN_ON.default)),
        max_length=source.spec.training.max_length,
        on_long=str(on_long) if on_long is not None else None,
        batch_size=batch_size,
    )
