"""Learned KV-cache decisions for LLM agents that pause on tool calls."""

__version__ = "0.1.0"
