"""Rows of an evaluation in training data of the Hub: compared where the data lie in the cache, without a network."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace

from dimba.common.errors import HostCannot, from_json
from dimba.common.json_lines import event_in
from dimba.dataset.mixture import MixtureSource
from dimba.dataset.overlap import Overlap, Words
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.model_source import ModelSource
from dimba.jobs.place import module_command, one_shot
from dimba.plan.mounts import same_place
from dimba.records.store import make_folder

_MODULE = "dimba.trainers.data.overlaps"


def hub_overlaps(
    source: ModelSource, data: MixtureSource, rows: Mapping[int, Words], reporter: Reporter
) -> tuple[dict[int, Overlap], int]:
    """The rows that stand in a data set of the Hub by their numbers, and how many rows it has.

    Raises:
        DimbaError: the cache of this machine does not have it, or its rows cannot be read.
    """
    source = source.prepared(reporter)
    facts = source.facts
    make_folder(facts.cache, facts.output.uid, facts.output.gid)
    place = one_shot(source.spec, facts, (same_place(facts.cache, read_only=False),), is_local=True)
    command = module_command(facts, _MODULE, json.dumps(asdict(replace(data, columns=dict(data.columns)))))
    found: dict[int, Overlap] = {}
    with source.runner.converse(command, place) as conversation:
        conversation.send(json.dumps(dict(rows)))
        for kind, value in filter(None, map(event_in, conversation.lines())):
            if kind == "rows":
                reporter.progress("comparing training rows", int(value), 0)
            elif kind == "overlap":
                found[value["number"]] = Overlap(kind=value["kind"], where=value["training"], share=value["share"])
            elif kind == "error":
                raise from_json(value)
            elif kind == "done":
                return found, int(value)
    raise HostCannot(f"reading {data.dataset} failed", "`dimba doctor` checks this machine")
