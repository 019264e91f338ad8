"""Parameters of how a run is followed: which model is kept, when it ends early, and where its metrics go."""

from collections.abc import Mapping
from functools import partial

from dimba.options.kinds import Integer, OneOf, Switch
from dimba.options.param import Param

_tracking = partial(Param, group="run")

NO_TRACKER = "none"
TRACKERS: Mapping[str, str] = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}  # their packages
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
    help="send the metrics to this tracker too; its key comes from the environment",
    question="Report to",
)
PARAMS = (SAVE_BEST, EARLY_STOP, REPORT_TO)
NEED_ROWS = (SAVE_BEST, EARLY_STOP)
