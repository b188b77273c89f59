from __future__ import annotations

from collections.abc import Iterator

import pytest

from rlkv_service.decision_log.entries import BEGINNING, id_parts, last_id, read_stream
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.resp import RespConnection
from rlkv_service.schema import SchemaError


@pytest.fixture
def connection(valkey: EmbeddedValkey) -> Iterator[RespConnection]:
    with RespConnection(valkey.url) as opened:
        for i in range(25):
            opened.execute("XADD", "stream", f"{1000 + i // 10}-{i}", "m", i)
        yield opened


@pytest.mark.parametrize("page", [1, 5, 7, 25, 100])
def test_pages_hold_every_entry_once(connection: RespConnection, page: int) -> None:
    pages = list(read_stream(connection, "stream", page=page))
    assert all(0 < len(each) <= page for each in pages)
    assert [entry.fields for each in pages for entry in each] == [
        {b"m": str(i).encode()} for i in range(25)
    ]
    assert not list(read_stream(connection, "no stream"))


def test_a_window_has_its_beginning_and_not_its_end(connection: RespConnection) -> None:
    def read(since_s: float | None, until_s: float | None) -> list[int]:
        pages = read_stream(connection, "stream", since_s=since_s, until_s=until_s, page=3)
        return [int(entry.fields[b"m"]) for each in pages for entry in each]

    assert read(1.001, None) == list(range(10, 25))
    assert read(None, 1.001) == list(range(10))
    assert read(1.001, 1.002) == list(range(10, 20))
    assert read(2.0, 3.0) == []


def test_the_last_id_outlives_its_entry(connection: RespConnection) -> None:
    assert last_id(connection, "stream") == "1002-24"
    connection.execute("XTRIM", "stream", "MAXLEN", 0)
    assert last_id(connection, "stream") == "1002-24"
    assert last_id(connection, "no stream") == BEGINNING


def test_ids_are_in_order_of_numbers() -> None:
    assert id_parts("9-10") < id_parts("10-0") < id_parts("10-9") < id_parts("10-10")
    for wrong in ("", "1", "a-1", "1-2-3", "-1-1", "²-1"):
        with pytest.raises(SchemaError, match="is no id"):
            id_parts(wrong)
