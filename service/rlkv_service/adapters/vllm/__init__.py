"""A plug-in for stock vLLM: what becomes of the KV of sessions that pause.

``connector.py``, ``scheduler.py``, ``cache_policy.py`` and ``host_copies.py`` touch vLLM or torch;
the rest decides and keeps the books, and knows neither.
"""
