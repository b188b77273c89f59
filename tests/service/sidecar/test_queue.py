"""The queue with a real server: who is answered, who is not, and what nobody survives."""

from __future__ import annotations

import json
import select
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlkv_agents.bundle import save_bundle
from rlkv_engine.errors import RlkvError
from rlkv_engine.facts import FACTS
from rlkv_service.columns import verdict_rows_of
from rlkv_service.deciding.active_bundle import ActiveBundle
from rlkv_service.deciding.decider import Decider
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from rlkv_service.schema import MAX_ROWS, DecisionRequest, Refusal, Verdicts, decode
from rlkv_service.sidecar.queue_loop import MAX_ANSWERS
from rlkv_service.sidecar.sidecar import Sidecar, SidecarOptions
from tests.agents.small_scenario import random_network
from tests.service.sidecar.queue_client import Connect, QueueClient, rows_of_session, until
from tests.service.start_valkey import StartValkey


def test_requests_are_answered_and_logged(
    sidecar: Sidecar, client: QueueClient, bundle: Path
) -> None:
    rows = rows_of_session("s", 5)
    client.push(client.frame(7, rows))
    answer = client.next()
    assert isinstance(answer, Verdicts) and answer.id == 7
    verdicts = verdict_rows_of(answer, 5)
    expected = Decider(ActiveBundle.load(bundle)).decide("engine", rows)
    np.testing.assert_array_equal(verdicts.verb, expected.verb)
    np.testing.assert_array_equal(verdicts.reason, expected.reason)
    assert verdicts.policy_version == expected.policy_version
    ((_, entry),) = client.connection.execute("XRANGE", client.keys.decisions, "-", "+")
    fields = dict(zip(entry[::2], entry[1::2], strict=True))
    assert decode(fields[b"q"], DecisionRequest).id == 7
    assert decode(fields[b"a"], Verdicts) == answer
    assert abs(float(fields[b"at"]) - client.now_s()) < 60.0
    counts = sidecar.service.counters.counts()
    assert counts.requests == {"answered": 1, "late": 0, "refused": 0, "malformed": 0}
    assert sum(counts.decisions.values()) == 5
    assert [each.session for each in sidecar.service.recent.decisions()] == ["s"] * 5


def test_answers_nobody_fetches_expire(sidecar: Sidecar, client: QueueClient) -> None:
    client.push(client.frame(1))
    until(lambda: client.connection.execute("LLEN", client.answers) == 1, "no answer")
    assert 0 < client.connection.execute("TTL", client.answers) <= 30


def test_late_requests_are_dropped(sidecar: Sidecar, client: QueueClient) -> None:
    now_s = client.now_s()
    client.push(
        client.frame(1, deadline_s=now_s - 0.001),
        client.frame(2, deadline_s=float("nan")),
        client.frame(3, deadline_s=now_s + 60.0),
    )
    assert client.next().id == 3
    assert client.connection.execute("LLEN", client.answers) == 0
    assert sidecar.service.counters.counts().requests["late"] == 2


def test_what_cannot_be_answered_is_refused(sidecar: Sidecar, client: QueueClient) -> None:
    whole = msgspec.msgpack.decode(client.frame(5))
    broken = [
        whole | {"v": 99, "id": 1},
        whole | {"turns": b"x", "id": 2},
        whole | {"facts": whole["facts"] | {"free_blocks": b"12345"}, "id": 3},
        whole | {"sessions": [], "tools": [], "turns": b"", "id": 4},
        whole | {"sessions": ["a"] * (MAX_ROWS + 1), "id": 6},
        {"type": "outcome", "id": 7, "reply_to": client.answers},
    ]
    client.push(*(msgspec.msgpack.encode(each) for each in broken), client.frame(8))
    told = [client.next() for _ in range(7)]
    reasons = {each.id: each.reason for each in told if isinstance(each, Refusal)}
    assert set(reasons) == {1, 2, 3, 4, 6, 7}
    assert "version 99" in reasons[1] and "turns has 1 bytes" in reasons[2]
    assert "free_blocks has 5 bytes" in reasons[3] and "0 decisions" in reasons[4]
    assert [each.id for each in told if isinstance(each, Verdicts)] == [8]
    assert sidecar.service.counters.counts().requests["refused"] == 6


def test_answers_go_to_answers_alone(sidecar: Sidecar, client: QueueClient) -> None:
    whole = msgspec.msgpack.decode(client.frame(1))
    for place in ("", "elsewhere", client.keys.requests, client.keys.answers("")):
        client.push(msgspec.msgpack.encode(whole | {"reply_to": place}))
        client.push(msgspec.msgpack.encode({"id": 1, "reply_to": place}))
    assert client.ask(2).id == 2
    assert client.connection.execute("EXISTS", "elsewhere", client.keys.requests) == 0
    assert sidecar.service.counters.counts().requests["malformed"] == 8


def test_answers_that_are_not_fetched_are_bounded(sidecar: Sidecar, client: QueueClient) -> None:
    num = MAX_ANSWERS + 200
    client.push(*(client.frame(i, rows_of_session("s", 1)) for i in range(num)))
    until(
        lambda: (
            sidecar.service.counters.counts().requests["answered"] == num
            and client.connection.execute("LLEN", client.answers) <= MAX_ANSWERS + 64
        ),
        "answers pile up",
    )


def test_replies_are_told_apart_while_answers_are_cut(
    valkey: EmbeddedValkey,
    bundle: Path,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rlkv_service.sidecar.queue_loop.MAX_ANSWERS", 2)
    looks = RespConnection.wait

    def looks_once_there_is_something(connection: RespConnection, deadline_s: float) -> object:
        select.select([connection], [], [], 0.02)
        return looks(connection, deadline_s)

    monkeypatch.setattr(RespConnection, "wait", looks_once_there_is_something)
    client = connect(valkey.url)
    with Sidecar(valkey.url, SidecarOptions(bundle)) as sidecar:
        counters = sidecar.service.counters
        for i in range(1, 9):
            client.push(client.frame(i))
            until(lambda i=i: counters.counts().requests["answered"] == i, "no answer")  # type: ignore[misc]
            # Now it has time to look what became of its answer.
            until(lambda: client.connection.execute("LLEN", client.answers) <= 2, "not cut")
    assert "trying again" not in caplog.text


def frames() -> st.SearchStrategy[bytes]:
    values = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
        | st.binary(max_size=40),
        lambda inner: st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=4),
        max_leaves=10,
    )  # fmt: skip
    answers = st.just("rlkv:{default}:answers:fuzz")
    columns = st.dictionaries(
        st.sampled_from([fact.name for fact in FACTS]) | st.text(),
        st.binary(min_size=8, max_size=8) | st.binary(max_size=32) | values,
    )
    floats = st.floats(0.0, 1e9).map(lambda value: np.float64(value).tobytes())
    facts = st.fixed_dictionaries({fact.name: floats for fact in FACTS})
    like_requests = st.fixed_dictionaries(
        {"type": st.just("decide") | values},
        optional={
            "v": st.just(1) | values,
            "id": st.integers(0, 2**63) | values,
            "engine_id": st.text() | values,
            "sessions": st.lists(st.text(), min_size=1, max_size=1) | values,
            "turns": st.binary(min_size=4, max_size=4) | values,
            "tools": st.lists(st.text(), min_size=1, max_size=1) | values,
            "facts": facts | columns | values,
            "reply_to": answers | values,
            "deadline_s": st.floats() | values,
        },
    )
    whole = st.builds(
        lambda facts, name, verb: {
            "type": "decide", "v": 1, "id": 1, "engine_id": name, "sessions": [name],
            "turns": b"1234", "tools": [name], "reply_to": "rlkv:{default}:answers:fuzz",
            "facts": facts | {"point": np.float64(verb).tobytes()},
        },
        facts, st.text(max_size=8), st.integers(0, 3),
    )  # fmt: skip
    packed = (like_requests | whole | values).map(msgspec.msgpack.encode)
    cut = st.builds(lambda raw, share: raw[: int(len(raw) * share)], packed, st.floats(0.0, 1.0))
    return packed | cut | st.binary(max_size=200)


def test_no_frame_ends_the_sidecar(sidecar: Sidecar, client: QueueClient) -> None:
    pushed = 0

    @settings(
        max_examples=100,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.lists(frames(), min_size=1, max_size=8), st.randoms(use_true_random=False))
    def fuzz(some: list[bytes], random: object) -> None:
        nonlocal pushed
        # Each frame as it is and with bytes changed, a hundred together.
        many = [damaged(frame, random) for frame in some for _ in range(100 // len(some))]
        client.push(*some, *many)
        pushed += len(some) + len(many)

    fuzz()
    assert pushed >= 10_000
    answer = client.ask(99)
    assert isinstance(answer, Verdicts) and answer.id == 99
    assert sidecar.failure is None
    requests = sidecar.service.counters.counts().requests
    assert sum(requests.values()) == pushed + 1
    assert min(requests["answered"], requests["refused"], requests["malformed"]) > 100


def damaged(frame: bytes, random: object) -> bytes:
    if not frame:
        return frame
    raw = bytearray(frame)
    for _ in range(random.randrange(3)):  # type: ignore[attr-defined]
        raw[random.randrange(len(raw))] = random.randrange(256)  # type: ignore[attr-defined]
    return bytes(raw)


def test_three_sidecars_share_one_queue_and_one_may_go(
    valkey: EmbeddedValkey, client: QueueClient, bundle: Path
) -> None:
    with ExitStack() as stack:
        sidecars = [
            stack.enter_context(Sidecar(valkey.url, SidecarOptions(bundle))) for _ in range(3)
        ]
        asked = set(range(300))
        for i in sorted(asked):
            client.push(client.frame(i, rows_of_session(str(i), 1)))
            if i == 100:
                sidecars[0].stop()
        assert {client.next().id for _ in asked} == asked
        until(
            lambda: len(client.connection.execute("HGETALL", client.keys.sidecars)) == 4,
            "two sidecars say that they live",
        )
        said = client.connection.execute("HVALS", client.keys.sidecars)
        assert {json.loads(raw)["policy_version"] for raw in said} == {
            sidecars[0].service.policy.version
        }
    assert client.connection.execute("EXISTS", client.keys.sidecars) == 0


def test_a_new_bundle_takes_over_while_it_is_asked(
    sidecar: Sidecar, client: QueueClient, bundle: Path
) -> None:
    old = sidecar.service.policy.version
    save_bundle(bundle, random_network(1), {})
    new = ActiveBundle.load(bundle).version
    deciders = {old: random_network(), new: random_network(1)}
    seen: list[str] = []

    def ask() -> bool:
        rows = rows_of_session("s", 64)
        client.push(client.frame(len(seen), rows))
        answer = client.next()
        assert isinstance(answer, Verdicts) and answer.id == len(seen)
        seen.append(answer.policy_version)
        expected = expectations[answer.policy_version]
        np.testing.assert_array_equal(verdict_rows_of(answer, 64).verb, expected)
        return answer.policy_version == new

    from tests.service.deciding.simulated import active

    rows = rows_of_session("s", 64)
    expectations = {
        version: Decider(active(policy)).decide("engine", rows).verb
        for version, policy in deciders.items()
    }
    assert (expectations[old] != expectations[new]).any()
    until(ask, "the new bundle does not decide")
    assert seen == sorted(seen, key=[old, new].index)
    assert sidecar.service.counters.counts().reloads == {"loaded": 1, "refused": 0}


def test_a_server_that_is_restarted_empty(
    start_valkey: StartValkey, bundle: Path, caplog: pytest.LogCaptureFixture, connect: Connect
) -> None:
    server = start_valkey(appendonly="no")
    with Sidecar(server.url, SidecarOptions(bundle)) as sidecar:
        assert connect(server.url).ask(1).id == 1
        server.kill()
        until(lambda: "trying again" in caplog.text, "the loss is not noticed")
        assert sidecar.service.not_ready
        server = start_valkey(appendonly="no")
        assert connect(server.url).ask(2).id == 2
        assert not sidecar.service.not_ready


def test_a_server_out_of_memory(sidecar: Sidecar, client: QueueClient) -> None:
    for i in range(400):
        client.push(client.frame(i, rows_of_session("s", 8)))
        client.next()
    entries = client.connection.execute("XLEN", client.keys.decisions)
    client.connection.execute("CONFIG", "SET", "maxmemory", 1)
    # Whoever has got a request in is answered as far as the server lets us.
    answered = sidecar.service.counters.counts().requests["answered"]
    client.connection.execute("CONFIG", "SET", "maxmemory", 0)
    client.push(client.frame(1000))
    client.connection.execute("CONFIG", "SET", "maxmemory", 1)
    until(lambda: sidecar.service.counters.counts().requests["answered"] > answered, "it stopped")
    client.connection.execute("CONFIG", "SET", "maxmemory", 0)
    assert client.ask(1001).id in (1000, 1001)
    assert client.connection.execute("XLEN", client.keys.decisions) >= entries


def test_the_log_gives_way_when_there_is_no_room(
    start_valkey: StartValkey, bundle: Path, connect: Connect
) -> None:
    server = start_valkey(maxmemory="6mb")
    client = connect(server.url)
    with Sidecar(server.url, SidecarOptions(bundle)) as sidecar:
        rows = rows_of_session("s", 256)
        full = 0

        def fill() -> bool:
            nonlocal full
            try:
                client.push(client.frame(1, rows))
                # The answer, too, may find no room.
                client.connection.execute("BLPOP", client.answers, 0.2)
            except RlkvError as error:
                assert "OOM" in str(error)
            full = max(full, client.connection.execute("XLEN", client.keys.decisions))
            return sidecar.service.counters.counts().log_failures > 0

        until(fill, "memory does not end")
        until(
            lambda: client.connection.execute("XLEN", client.keys.decisions) < full,
            "nothing is given up",
        )
        client.connection.execute("DEL", client.answers, client.keys.requests)
        assert isinstance(client.ask(5), Verdicts)


def test_the_log_keeps_to_its_bytes(valkey: EmbeddedValkey, bundle: Path, connect: Connect) -> None:
    client = connect(valkey.url)
    with Sidecar(valkey.url, SidecarOptions(bundle, log_bytes=300_000)):
        for i in range(300):
            client.push(client.frame(i, rows_of_session("s", 20)))
        for _ in range(300):
            client.next()
        entries = client.connection.execute("XLEN", client.keys.decisions)
        used = client.connection.execute("MEMORY", "USAGE", client.keys.decisions)
        assert 10 < entries < 300 and used < 600_000
    with Sidecar(valkey.url, SidecarOptions(bundle, log_bytes=0)):
        before = client.connection.execute("XINFO", "STREAM", client.keys.decisions)
        client.ask(1)
        assert client.connection.execute("XINFO", "STREAM", client.keys.decisions) == before


def test_without_a_server_it_does_not_start(
    short_folder: Path, start_valkey: StartValkey, bundle: Path
) -> None:
    with pytest.raises(RlkvError, match="cannot be reached"):
        Sidecar(RedisURL(path=str(short_folder / "none.sock")), SidecarOptions(bundle))
    server = start_valkey(requirepass="secret")
    for password, said in (("", "NOAUTH"), ("wrong", "WRONGPASS")):
        url = RedisURL(path=server.url.path, password=password)
        with pytest.raises(RlkvError, match=said):
            Sidecar(url, SidecarOptions(bundle))


def test_a_server_that_refuses_us_later(
    start_valkey: StartValkey, bundle: Path, caplog: pytest.LogCaptureFixture, connect: Connect
) -> None:
    server = start_valkey(requirepass="secret")
    client = connect(server.url)
    with Sidecar(server.url, SidecarOptions(bundle)):
        assert client.ask(1).id == 1
        client.connection.execute("CONFIG", "SET", "requirepass", "other")
        client.connection.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        until(lambda: "WRONGPASS" in caplog.text, "it is not told")
        client.connection.execute("CONFIG", "SET", "requirepass", "secret")
        assert client.ask(2).id == 2


def test_a_stop_answers_what_was_taken(
    valkey: EmbeddedValkey, bundle: Path, connect: Connect
) -> None:
    client = connect(valkey.url)
    sidecar = Sidecar(valkey.url, SidecarOptions(bundle))
    client.push(*(client.frame(i, rows_of_session("s", 1)) for i in range(500)))
    sidecar.start()
    client.next()
    sidecar.stop()
    waiting = client.connection.execute("LLEN", client.keys.requests)
    answered = client.connection.execute("LLEN", client.answers) + 1
    assert waiting + answered == 500
    with Sidecar(valkey.url, SidecarOptions(bundle)):
        assert {client.next().id for _ in range(499)}


def test_a_connection_for_answers_that_is_closed_is_noticed_before_it_is_needed(
    sidecar: Sidecar, client: QueueClient
) -> None:
    def ids(command: str) -> set[str]:
        listed = client.connection.execute("CLIENT", "LIST").decode().splitlines()
        fields = [dict(field.split("=", 1) for field in line.split(" ")) for line in listed]
        return {each["id"] for each in fields if each["cmd"] == command}

    client.push(client.frame(1))
    assert client.next().id == 1
    before = set[str]()

    def takes() -> bool:
        nonlocal before
        before = ids("blmpop")  # between two it asks for the time
        return bool(before)

    until(takes, "nobody takes")
    (writing,) = ids("xadd")
    client.connection.execute("CLIENT", "KILL", "ID", writing)
    until(lambda: bool(ids("blmpop") - before), "the same connections")
    client.push(client.frame(2))
    assert client.next().id == 2
