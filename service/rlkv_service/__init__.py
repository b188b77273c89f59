"""The sidecar, the decision API, its client, and adapters to other servers."""
