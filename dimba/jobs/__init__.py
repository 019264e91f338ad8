"""The life of a job: launch, follow, stop, resume, repeat, reconcile."""
