"""Ranks as forks of the test's process, connected over gloo: importing torch takes longer than what they do."""

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_SECONDS = 120


def on_ranks(count: int, work: Callable[[], T], folder: Path) -> list[T]:
    """What `work` returns on each of `count` connected ranks, which may not change anything but files in `folder`."""
    import dimba.trainers.objectives.sft.train  # noqa: F401  # once, before the forks

    folder.mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_work, args=(rank, count, work, folder)) for rank in range(count)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(_SECONDS)
    running = [each for each in ranks if each.is_alive()]
    for each in running:
        each.kill()
    results = [pickle.loads((folder / f"rank-{rank}").read_bytes()) for rank in range(count) if not running]
    assert not running, "the ranks wait for each other"
    assert not any(isinstance(each, _Failed) for each in results), "\n".join(map(str, results))
    return results


class _Failed(str):
    """The traceback of a rank."""


def _work(rank: int, count: int, work: Callable[[], T], folder: Path) -> None:
    import torch
    from accelerate.state import AcceleratorState

    from dimba.trainers import command

    AcceleratorState._reset_state(reset_partial_state=True)
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {**place, "ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    command.end_rank = lambda *_, **__: None  # the fork ends below, with its result
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    try:
        result: object = work()
    except BaseException:
        result = _Failed(traceback.format_exc())
    (folder / f"rank-{rank}").write_bytes(pickle.dumps(result))
    os._exit(0)  # connections and what the fork shares with the test are left as they are
