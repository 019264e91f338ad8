"""Probes of this machine, of checkpoints and of the Hub; each returns frozen facts."""
