"""Deciding: a bundle and what is known of pauses make verdicts of decisions."""
