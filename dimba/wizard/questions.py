"""The questions of each step, in the order of asking."""

from dimba.wizard.question import Question
from dimba.wizard.steps import base_code, checkpoint, data, method, mode, trainer, tune

QUESTIONS: tuple[Question, ...] = (
    *mode.QUESTIONS,
    *checkpoint.QUESTIONS,
    *base_code.QUESTIONS,
    *data.QUESTIONS,
    *method.QUESTIONS,
    *tune.QUESTIONS,
    *trainer.QUESTIONS,
)
TITLES = {
    1: "Mode",
    2: "Base checkpoint",
    3: "Data set",
    4: "VRAM budget and method",
    5: "Hyperparameters",
    6: "Trainer and launch",
}
