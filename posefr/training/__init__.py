"""Training: `python -m posefr.training` for the restorer, `python -m posefr.training.detector` for the detector."""
