"""Gymnasium environments around the engine, and the workloads that drive them.

Importing this registers ``rlkv/KVMemory-v0``; without Gymnasium (the smallest install) the readers
of traces still work.
"""

from importlib.util import find_spec

if find_spec("gymnasium") is not None:
    from rlkv_envs.registration import register_envs as register_envs

    register_envs()
