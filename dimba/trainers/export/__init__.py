"""Exports of a trained model, each with the proof that it computes what was trained."""
