"""Finding the trainer: the spec's, else the usual ones in their order."""

from collections.abc import Sequence
from pathlib import Path

from dimba.common.contract import absolute
from dimba.host.facts import TrainerFacts
from dimba.host.places import why_not_read

# The mode's own first; the other mode's last, as it is launched only where it has a mode flag.
TRAINERS = {
    "sft": ("finetuning/finetune_sft.py", "finetuning/train.py", "train.py", "finetuning/finetune_grpo.py"),
    "grpo": ("finetuning/finetune_grpo.py", "finetuning/train.py", "train.py", "finetuning/finetune_sft.py"),
}


def own_trainer(mode: str, project: Path) -> Path:
    """Our trainer for a mode, whose way with data is known: it can show them."""
    return project / f"scripts/finetuning/finetune_{mode}.py"


def find_trainer(trainer: str | None, mode: str, folder: Path, project: Path) -> TrainerFacts:
    """The spec's trainer, else the first of the mode's that exists in `folder` or the project."""
    names = [trainer] if trainer else _usual_names(mode)
    if found := _existing(names, mode, folder, project):
        facts = found[0][1]
        assert facts.path is not None
        if why := why_not_read(facts.path):
            hint = "give the path of a training script of your own"
            return TrainerFacts(path=None, problem=f"{facts.path} {why}", hint=hint)
        return facts
    tried = ", ".join(f"`{name}`" for name in names)
    hint = "give the path of a training script, relative to the folder that dimba is run in"
    return TrainerFacts(path=None, problem=f"no trainer found: {tried}", hint=hint)


def find_trainers(mode: str, folder: Path, project: Path) -> list[tuple[str, TrainerFacts]]:
    """Every usual trainer that exists, by its relative name, in the order to offer them: the other mode's last."""
    return _existing(_usual_names(mode), mode, folder, project)


def _usual_names(mode: str) -> list[str]:
    return [f"scripts/{name}" for name in TRAINERS[mode]]


def _existing(names: Sequence[str], mode: str, folder: Path, project: Path) -> list[tuple[str, TrainerFacts]]:
    other = Path(_usual_names(mode)[-1]).parts
    found = []
    for name in names:
        paths = [path for root in (folder, project) if (path := absolute(name, root)).is_file()]
        if paths:
            # Naming it does not make it train what the mode says.
            found.append((name, TrainerFacts(path=paths[0], other_mode=paths[0].parts[-len(other) :] == other)))
    return found
