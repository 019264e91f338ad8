"""The wizard: six steps from nothing to a job spec."""
