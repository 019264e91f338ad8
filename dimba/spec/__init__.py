"""The job spec: what a person writes, checked and completed."""

from dimba.spec.load import LoadedSpec, load_spec, parse_spec
from dimba.spec.model import Dataset, JobSpec
from dimba.spec.schema import json_schema
from dimba.spec.write import documents_yaml, spec_yaml

__all__ = ["Dataset", "JobSpec", "LoadedSpec", "documents_yaml", "json_schema", "load_spec", "parse_spec", "spec_yaml"]
