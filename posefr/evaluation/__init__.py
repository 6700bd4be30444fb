"""Measurements: `python -m posefr.evaluation`."""
