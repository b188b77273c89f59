"""Servers that people already run, and how a verdict becomes an action there."""
