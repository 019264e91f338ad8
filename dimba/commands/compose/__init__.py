"""What `compose.yaml` starts inside the container: the same command and environment as `dimba launch`, no launcher."""
