"""The store dies under the API: decisions go on, and nothing is acknowledged and lost."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable

from rlkv_service.decision_api.examples import CALL, OUTCOME
from rlkv_service.resp import RespConnection
from rlkv_service.schema import Outcome, decode
from tests.service.decision_api.running_api import PATIENCE_S, new_service, problem_of, running_api
from tests.service.start_valkey import StartValkey


def wait_until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_the_store_is_killed_and_comes_back(start_valkey: StartValkey) -> None:
    # On a slow disk `everysec` replies before it writes: Valkey waits for an fsync under way.
    store = start_valkey(appendfsync="always")
    service = new_service(store.url)
    accepted: list[int] = []
    refused: list[int] = []
    with running_api(service) as api:
        stop = threading.Event()

        def report() -> None:
            for turn in range(1_000_000):
                if stop.is_set():
                    return
                body = copy.deepcopy(OUTCOME)
                body["outcomes"][0]["turn"] = turn
                response = api.post("/v1/outcomes", body)
                if response.status_code == 200:
                    assert response.json() == {"accepted": 1, "new": 1}
                    accepted.append(turn)
                else:
                    told = problem_of(response, 503, "unavailable")
                    assert "send it again" in told["detail"]
                    assert int(response.headers["retry-after"]) >= 1
                    refused.append(turn)

        reporting = threading.Thread(target=report)
        reporting.start()
        try:
            wait_until(lambda: len(accepted) > 20)
            assert api.http.get("/readyz").status_code == 200
            store.kill()
            wait_until(lambda: len(refused) > 3)
            told = problem_of(api.http.get("/readyz"), 503, "not-ready")
            assert "cannot be reached" in told["detail"]
            assert api.post("/v1/decisions", CALL).status_code == 200
            assert api.http.get("/healthz").status_code == 200
            store = start_valkey(appendfsync="always")
            before = len(accepted)
            wait_until(lambda: len(accepted) > before + 20)
            assert api.http.get("/readyz").status_code == 200
        finally:
            stop.set()
            reporting.join(PATIENCE_S)
        # Whatever was refused may be sent again.
        body = copy.deepcopy(OUTCOME)
        body["outcomes"] = [body["outcomes"][0] | {"turn": turn} for turn in refused[:1000]]
        assert api.post("/v1/outcomes", body).json()["accepted"] == len(refused[:1000])
    with RespConnection(store.url) as connection:
        entries = connection.execute("XRANGE", service.keys.outcomes, "-", "+")
    turns = [decode(fields[1], Outcome).turn for _, fields in entries]
    assert len(turns) == len(set(turns)), "counted twice"
    assert set(accepted) | set(refused[:1000]) <= set(turns), "acknowledged and lost"


def test_a_full_store_refuses(start_valkey: StartValkey) -> None:
    store = start_valkey()
    with running_api(new_service(store.url)) as api:
        with RespConnection(store.url) as connection:
            connection.execute("CONFIG", "SET", "maxmemory", "1")
        told = problem_of(api.post("/v1/outcomes", OUTCOME), 503, "unavailable")
        assert "OOM" in told["detail"]
        problem_of(api.http.delete("/v1/sessions/s?engine_id=e"), 503, "unavailable")
        assert api.post("/v1/decisions", CALL).status_code == 200
        with RespConnection(store.url) as connection:
            connection.execute("CONFIG", "SET", "maxmemory", "0")
        assert api.post("/v1/outcomes", OUTCOME).json() == {"accepted": 1, "new": 1}
