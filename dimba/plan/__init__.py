"""(JobSpec, HostFacts) → LaunchPlan: what would run, and is what runs."""

from dimba.plan.build import make_plan
from dimba.plan.model import LaunchPlan, Mount, Omitted

__all__ = ["LaunchPlan", "Mount", "Omitted", "make_plan"]
