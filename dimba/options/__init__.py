"""The parameters of a job, each declared once. Standard library only."""
