"""The entry point ``vllm.general_plugins``: makes ``RlkvConnector`` known by name.

Called in every process of vLLM, perhaps more than once; read in vLLM 0.32.0:
``plugins/__init__.py``, ``distributed/kv_transfer/kv_connector/factory.py``.
"""

from __future__ import annotations

import logging

CONNECTOR = "RlkvConnector"
_MODULE = "rlkv_service.adapters.vllm.connector"


def register() -> None:
    """Registers the connector; whatever goes wrong is said, and vLLM goes on."""
    try:
        from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

        if CONNECTOR not in KVConnectorFactory._registry:
            KVConnectorFactory.register_connector(CONNECTOR, _MODULE, CONNECTOR)
    except Exception as error:
        logging.getLogger("vllm.rlkv").warning(
            "rlkv is off: %s cannot be registered with this vLLM: %s: %s",
            CONNECTOR,
            type(error).__name__,
            error,
        )
