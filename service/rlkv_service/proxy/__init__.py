"""A pass-through in front of any backend: it tells a sidecar of pauses, and backends of verdicts."""
