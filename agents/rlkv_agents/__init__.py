"""Policies: training, the bundle, every baseline, and what they are compared on."""
