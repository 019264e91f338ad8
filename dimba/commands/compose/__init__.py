"""The first process of a compose.yaml service: runs jobs with the command and environment of `dimba launch`."""
