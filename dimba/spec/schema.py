"""The spec's JSON Schema, for editors."""

from typing import Any

from dimba.spec.model import JobSpec


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of `jobs/*.yaml`."""
    schema = JobSpec.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "dimba job spec, version 1"
    size = {
        "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}, {"type": "null"}],
        "default": None,
    }
    for name in ("shm_size", "memory"):
        schema["$defs"]["Resources"]["properties"][name] = {**size, "title": name}
    return schema
