"""What a task may do on this machine: its files are data, and their code runs only where the user trusts it.

lm-eval's own tasks, which are a part of its package, are trusted as the package is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import evaluate
import lm_eval
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from lm_eval import utils
from lm_eval.api.registry import get_metric_aggregation
from lm_eval.tasks import _yaml_loader

from dimba.common.errors import BadInput
from dimba.common.tasks import TRUST

_OWN = Path(lm_eval.__file__).resolve().parent
_HINT = f"read that code; if you trust it, run it with `{TRUST}`"
_DATA = ("json", "csv", "parquet", "text", "arrow")  # that only read: others of `datasets` unpickle, or run queries
_load_dataset, _load_metric = datasets.load_dataset, evaluate.load
_resolve = _yaml_loader._import_func_in_yml  # the one place in which lm-eval imports what a task file names


def guard(*, trusts_code: bool) -> None:
    """Let templates of tasks run in a sandbox, as chat templates do, and code of tasks not at all without trust."""
    sandbox = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters.update(utils.env.filters)
    utils.env = sandbox
    _yaml_loader._import_func_in_yml = _resolve if trusts_code else _only_own
    evaluate.load = _load_metric if trusts_code else _no_metric
    datasets.load_dataset = _load_dataset if trusts_code else _only_data


def _only_own(name: str, folder: Path) -> Any:
    """The function that a task file in `folder` names, if the file is one of lm-eval's own; raises BadInput."""
    place = Path(folder).expanduser().resolve()
    if not place.is_relative_to(_OWN):
        raise BadInput(f"names Python code, `!function {name}`, which could do anything here", _HINT, file=place)
    return _resolve(name, folder)


def _only_data(path: str, *given: Any, **named: Any) -> Any:
    """As `datasets` loads it, unless its own code for `path` does more than read; raises BadInput."""
    if path in datasets.packaged_modules._PACKAGED_DATASETS_MODULES and path not in _DATA:
        raise BadInput(f"a task reads its data as `{path}`, which can run code", f"give one of {', '.join(_DATA)}")
    return _load_dataset(path, *given, **named)


def _no_metric(name: str, *_: Any, **__: Any) -> Any:
    problem = f"the metric `{name}` is none of lm-eval's own: it would be downloaded from the Hub as a program"
    raise BadInput(problem, f"name one of lm-eval's own, such as `exact_match`; if you trust it, use `{TRUST}`")


def _missing_metric(name: str) -> None:
    raise BadInput(f"there is no metric `{name}`", "name one of lm-eval's own, such as `exact_match`")


def require_metrics(settings: Mapping[str, Any], *, trusts_code: bool) -> None:
    """Raises BadInput for a metric of a task file that lm-eval does not know, of which it raises a bare KeyError."""
    given = settings.get("metric_list")
    for each in given if isinstance(given, list) else ():
        name = each.get("metric") if isinstance(each, Mapping) else None
        if isinstance(name, str) and "aggregation" not in each and get_metric_aggregation(name) is None:
            _no_metric(name) if not trusts_code else _missing_metric(name)


def require_safe(task: Any, name: str, *, trusts_code: bool) -> None:
    """Raises BadInput for a task whose metric is not there, or that runs what a model writes, without trust."""
    metrics = getattr(task, "_metric_fn_list", {})
    if not callable(task.get_config("process_results")):
        for metric in (key for key, function in metrics.items() if function is None):
            _no_metric(metric) if not trusts_code else _missing_metric(metric)
    if getattr(task, "UNSAFE_CODE", False) and not trusts_code:
        problem = f"the task `{name}` runs the code that the model writes"
        raise BadInput(problem, f"if that may run here, use `{TRUST}`")
