"""The sidecar: answers decisions from a queue in Redis and, if told to, over HTTP."""
