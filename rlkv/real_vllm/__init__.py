"""A real vLLM server in a process of its own, and what it serves."""
