"""LMCache's own coordinator takes the calls; skipped where LMCache cannot be imported."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rlkv_service.adapters.hints import BACKENDS, Pause, Served
from rlkv_service.schema import Verb
from tests.service.adapters.hints.made_pauses import pause_of

pytest.importorskip("lmcache", reason="LMCache is not installed", exc_type=ImportError)

SERVED = Served(model="llama", world_size=2, instance_id="node-0", pins=True)
TOKENS = list(range(600))


@pytest.fixture(scope="module")
def coordinator() -> Iterator[Any]:
    from fastapi.testclient import TestClient
    from lmcache.v1.mp_coordinator.app import create_app
    from lmcache.v1.mp_coordinator.config import MPCoordinatorConfig

    with TestClient(create_app(MPCoordinatorConfig())) as client:
        yield client


def swapped() -> Pause:
    return pause_of(Verb.SWAP, token_ids=TOKENS, expected_return_p50_s=8.0)


def test_a_pin_is_made_and_taken_back(coordinator: Any) -> None:
    pin, unpin, _ = BACKENDS["lmcache"](swapped(), SERVED).calls
    told = coordinator.request(pin.method, pin.path, json=pin.body)
    assert told.status_code == 200, told.text
    # 600 tokens are two whole chunks of 256, each on two ranks.
    assert (told.json()["status"], told.json()["affected"]) == ("pinned", 4)
    assert coordinator.get("/cache/pins").json()["total"] == 4
    told = coordinator.request(unpin.method, unpin.path, json=unpin.body)
    assert (told.status_code, told.json()["status"]) == (200, "unpinned")
    assert coordinator.get("/cache/pins").json()["total"] == 0


@pytest.mark.parametrize("verb", [Verb.SWAP, Verb.DISCARD])
def test_fetching_and_deleting_ask_for_the_node_that_is_named(coordinator: Any, verb: Verb) -> None:
    pause = pause_of(verb, token_ids=TOKENS, shared_tokens=0, expected_return_p50_s=8.0)
    call = BACKENDS["lmcache"](pause, SERVED).calls[-1]
    told = coordinator.request(call.method, call.path, json=call.body)
    # The body is read, and there is no such node here.
    assert told.status_code == 404 and "node-0" in told.json()["detail"]
    assert call.body is not None
    wrong = {name: value for name, value in call.body.items() if name != "world_size"}
    assert coordinator.request(call.method, call.path, json=wrong).status_code == 422


def test_fields_reach_lmcache_beside_vllm() -> None:
    from lmcache.integration.vllm.utils import extract_request_configs_from_sampling_params

    fields = BACKENDS["lmcache"](pause_of(Verb.DISCARD, shared_tokens=512), SERVED).fields
    sampling = SimpleNamespace(extra_args={"kv_transfer_params": fields["kv_transfer_params"]})
    read = extract_request_configs_from_sampling_params(sampling)
    assert read == {"lmcache.skip_save": True, "lmcache.max_offload_tokens": 512}
