"""The job's first process and the processes below it, inside the container. Standard library only."""
