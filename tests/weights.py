"""What came of a training, compared."""

import hashlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def weights_file(folder: Path) -> Path:
    """The model's, or its adapter's."""
    (file,) = folder.glob("*.safetensors")
    return file


def weights_hash(folder: Path) -> str:
    return hashlib.sha256(weights_file(folder).read_bytes()).hexdigest()


def largest_difference(one: Path, other: Path) -> float:
    """The largest difference of a weight."""
    mine, theirs = load_file(weights_file(one)), load_file(weights_file(other))
    assert mine.keys() == theirs.keys()
    return max(float(np.abs(mine[key] - theirs[key]).max()) for key in mine)


def saved_rank_count(folder: Path) -> int:
    """How many processes trained: each leaves the state of its random numbers in a checkpoint."""
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    return len(list(newest.glob("rng_state_*.pth")))
