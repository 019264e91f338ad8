"""Compares the results of trainings."""

import hashlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def weights_file(folder: Path) -> Path:
    """The weights of the model or adapter in `folder`."""
    (file,) = folder.glob("*.safetensors")
    return file


def weights_hash(folder: Path) -> str:
    return hashlib.sha256(weights_file(folder).read_bytes()).hexdigest()


def largest_difference(one: Path, other: Path) -> float:
    """The largest difference between two weights of the same name."""
    mine, theirs = load_file(weights_file(one)), load_file(weights_file(other))
    assert mine.keys() == theirs.keys()
    return max(float(np.abs(mine[key] - theirs[key]).max()) for key in mine)


def saved_rank_count(folder: Path) -> int:
    """The number of processes that trained: each saves its random state in a checkpoint."""
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    return len(list(newest.glob("rng_state_*.pth")))
