"""A pass-through in front of any backend: a sidecar hears of pauses, the backend of verdicts."""
