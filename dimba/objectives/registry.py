"""The objectives by name: the one list of modes."""

from typing import Any

from dimba.objectives.dpo import DPO
from dimba.objectives.grpo import GRPO
from dimba.objectives.objective import Objective
from dimba.objectives.sft import SFT

OBJECTIVES: dict[str, Objective[Any]] = {each.name: each for each in (SFT, GRPO, DPO)}
