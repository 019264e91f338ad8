"""The job spec: strict YAML in and out, checked and completed with defaults."""

from dimba.spec.dataset import Dataset, WeightedDataset
from dimba.spec.load import LoadedSpec, load_spec, parse_spec
from dimba.spec.model import Container, JobSpec, Slurm, SlurmSite
from dimba.spec.schema import json_schema
from dimba.spec.site import load_site, site_file
from dimba.spec.write import documents_yaml, spec_yaml
from dimba.spec.yaml12 import flow_items

__all__ = [
    "Container",
    "Dataset",
    "JobSpec",
    "LoadedSpec",
    "Slurm",
    "SlurmSite",
    "WeightedDataset",
    "documents_yaml",
    "flow_items",
    "json_schema",
    "load_site",
    "load_spec",
    "parse_spec",
    "site_file",
    "spec_yaml",
]
