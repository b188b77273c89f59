"""The OpenAPI document: the paths are FastAPI's, the bodies msgspec's."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from rlkv_service.decision_api.guards import OPEN_PATHS
from rlkv_service.decision_api.operations import BODIES, SCHEMA_REF

_SCHEME = "token"


def describe(app: FastAPI, *, asks_for_tokens: bool) -> None:
    """Lets an application with all its routes answer ``/openapi.json``."""
    _, schemas = msgspec.json.schema_components(BODIES, ref_template=SCHEMA_REF)
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    components: dict[str, Any] = {"schemas": schemas}
    if asks_for_tokens:
        components["securitySchemes"] = {_SCHEME: {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["security"] = [] if path in OPEN_PATHS else [{_SCHEME: []}]
    document["components"] = components
    app.openapi = lambda: document  # type: ignore[method-assign]
