"""Parameters of how a run is followed: which model is kept, when it ends early, and where its metrics go."""

from collections.abc import Mapping, Sequence
from functools import partial

from dimba.options.kinds import Integer, OneOf, Switch
from dimba.options.param import Param

_tracking = partial(Param, group="run")

NO_TRACKER = "none"
# Their packages. The first two and the last write files where nothing else is asked for.
TRACKERS: Mapping[str, str] = {
    "trackio": "trackio",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
}
# In the output folder, which all attempts share and which outlives the container.
TRACKER_FOLDERS: Mapping[str, str] = {"trackio": "trackio", "mlflow": "mlflow"}
NO_ROWS = "needs validation rows, and none are held out"
HELD_OUT = 0.05  # share of the rows that the wizard holds out
HOLD_OUT_HINT = (
    f"hold some out with `--validation-split {HELD_OUT}` (in a spec `trainer_args: {{validation-split: {HELD_OUT}}}`)"
)

SAVE_BEST = _tracking(
    key="training.save_best",
    flags=("--save-best",),
    aliases=("--save-best", "--load-best-model-at-end"),
    kind=Switch(),
    default=False,
    help="save the model of the evaluation with the lowest validation loss, instead of the last step's",
    question="Save the best",
)
EARLY_STOP = _tracking(
    key="training.early_stop",
    flags=("--early-stop",),
    aliases=("--early-stop", "--early-stopping-patience"),
    kind=Integer(),
    metavar="N",
    help="end training after N evaluations without a lower validation loss",
    question="Early stop",
)
REPORT_TO = _tracking(
    key="training.report_to",
    flags=("--report-to",),
    aliases=("--report-to",),
    kind=OneOf((NO_TRACKER, *TRACKERS)),
    default=NO_TRACKER,
    several=True,
    help="send the metrics to these trackers too; their keys come from the environment",
    question="Report to",
)
PARAMS = (SAVE_BEST, EARLY_STOP, REPORT_TO)
NEED_ROWS = (SAVE_BEST, EARLY_STOP)


def trackers_of(value: str | Sequence[str]) -> tuple[str, ...]:
    """The trackers of `report_to`, a word or several."""
    words = (value,) if isinstance(value, str) else value
    return tuple(word for word in words if word != NO_TRACKER)
