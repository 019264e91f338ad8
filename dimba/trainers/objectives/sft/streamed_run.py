"""How a run on a stream ends: at an unusable row it stops and saves; rows that were left out are counted."""

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dimba.common.errors import BadInput
from dimba.trainers.data.streaming import LeftOut, RowStream
from dimba.trainers.objectives.callbacks import StopOnSignal
from dimba.trainers.ranks import is_main_process

_HINT = (
    "a checkpoint was saved: correct the row, or leave such rows out with --skip-bad-rows (in a spec `trainer_args: "
    "{skip-bad-rows: true}`), and resume with --anyway, as the data or the settings have changed then"
)


class StopAtUnusableRow(TrainerCallback):
    """Asks for a stop once the rows of a step held an unusable one that may not be skipped."""

    def __init__(self, stream: RowStream, stop: StopOnSignal) -> None:
        self._stream, self._stop = stream, stop

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """The rows of the step have been read."""
        if self._stream.refused:
            self._stop.requested = True


def report_stream(stream: RowStream, *, stopped: bool) -> None:
    """Print how many rows were left out. All ranks must call it together.

    Raises:
        BadInput: the run was stopped at an unusable row.
    """
    left_out: LeftOut = sum(gather_object([stream.left_out]), LeftOut())
    if left_out.summary and is_main_process():
        print(f"data: {left_out.summary}", flush=True)
    refused = [each for each in gather_object([stream.refused and stream.refused.detail]) if each]
    if refused and stopped:
        raise BadInput(refused[0], _HINT)
