"""A real decision API on a free port: a Valkey server, the shipped bundle, and raw HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from rlkv_agents.shipped import UNIVERSAL, bundle_folder
from rlkv_service.deciding.active_bundle import ActiveBundle
from rlkv_service.deciding.check_rows import made_up_rows
from rlkv_service.deciding.decider import Decider
from rlkv_service.decision_api.app import make_app
from rlkv_service.decision_api.options import ApiOptions
from rlkv_service.pause_estimates import PauseEstimates
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.sidecar.service import DecisionService
from rlkv_service.web_server.listening import listen
from rlkv_service.web_server.running import WebServer
from tests.service.serving_thread import serving

#: Nothing here takes so long, seconds; what does has failed.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Api:
    url: str
    http: httpx.Client
    service: DecisionService

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """Posts JSON, whatever it is."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.post(
            path, content=content, headers={"content-type": "application/json"} | headers
        )


def problem_of(response: httpx.Response, status: int, kind: str) -> Mapping[str, Any]:
    """The problem that a response must be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told: Mapping[str, Any] = response.json()
    assert (told["type"], told["status"]) == (f"urn:rlkv:problem:{kind}", status)
    return told


def new_service(
    url: RedisURL, *, shadow: bool = False, estimates: PauseEstimates | None = None
) -> DecisionService:
    bundle = ActiveBundle.load(bundle_folder(UNIVERSAL))
    decider = Decider(bundle, estimates, shadow=shadow)
    decider.decide("", made_up_rows())  # compiles what is not compiled yet
    return DecisionService(decider, url, RedisKeys("test"), estimates)


@contextmanager
def running_api(service: DecisionService, options: ApiOptions | None = None) -> Iterator[Api]:
    app = make_app(service, options)
    with listen("127.0.0.1", 0) as listening:
        server = WebServer(app, app.state.feed.close)
        with (
            serving(server, listening, PATIENCE_S) as url,
            httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False) as http,
        ):
            yield Api(url, http, service)
