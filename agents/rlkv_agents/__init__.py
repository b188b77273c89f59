"""Policies: training, the bundle, every baseline and the predictor of pauses."""
