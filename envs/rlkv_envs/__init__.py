"""Gymnasium environments around the engine, and the workloads that drive them."""
