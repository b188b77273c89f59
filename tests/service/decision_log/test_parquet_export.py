from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlkv_engine.errors import InputError
from rlkv_engine.facts import FACTS
from rlkv_service.decision_log import parquet_export
from rlkv_service.decision_log.log_reader import LogReader, LogWindow
from rlkv_service.decision_log.parquet_export import export_log, read_outcomes
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.outcome_log import record_outcomes
from rlkv_service.redis_errors import RedisError
from rlkv_service.resp import RespConnection
from rlkv_service.schema import Reason, Verb
from tests.service.decision_log.logged import KEYS, START_S, drawn, log_decisions, messages_of


@pytest.fixture
def connection(valkey: EmbeddedValkey) -> Iterator[RespConnection]:
    with RespConnection(valkey.url) as opened:
        yield opened


def test_every_decision_is_a_row_with_its_facts_and_its_verdict(
    connection: RespConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_export, "GROUP_ROWS", 10)  # several row groups
    written = [
        log_decisions(
            connection, [f"s{i}" for i in range(num)], range(num), ["bash"] * num, request_id=num
        )
        for num in (1, 7, 64, 3)
    ]
    counts = export_log(LogReader(connection, KEYS), tmp_path)
    assert (counts.num_requests, counts.num_decisions, counts.num_outcomes) == (4, 75, 0)
    table = pq.read_table(tmp_path / "decisions.parquet")
    metadata = pq.ParquetFile(tmp_path / "decisions.parquet").metadata
    assert metadata.num_row_groups > 1 and metadata.row_group(0).column(0).compression == "ZSTD"
    assert pa.types.is_dictionary(table.schema.field("session").type)
    facts = np.concatenate([rows.facts for rows, _ in written])
    for i, fact in enumerate(FACTS):
        column = table[f"fact_{fact.name}"]
        np.testing.assert_array_equal(column.to_numpy(), facts[:, i])
        assert column.null_count == np.isnan(facts[:, i]).sum()
    verbs = np.concatenate([verdicts.verb for _, verdicts in written])
    assert table["verb"].to_pylist() == [Verb(verb).name for verb in verbs]
    assert table["policy_verb"].to_pylist() == table["verb"].to_pylist()
    assert set(table["reason"].to_pylist()) == {Reason.POLICY.name}
    assert table["point"].to_pylist()[8:12] == ["CALL", "NEW", "RESUME", "GROW"]
    assert table["lease_s"].to_pylist()[0] == float("inf")
    assert table["row"].to_pylist() == [i for num in (1, 7, 64, 3) for i in range(num)]
    assert table["at"][0].as_py().timestamp() == START_S
    assert len(set(table["entry_id"].to_pylist())) == 4


def test_outcomes_are_read_back_as_they_were_reported(
    connection: RespConnection, tmp_path: Path
) -> None:
    messages = messages_of(drawn(20))
    record_outcomes(connection, KEYS, messages)
    counts = export_log(LogReader(connection, KEYS), tmp_path)
    assert counts.num_outcomes + counts.num_ends == len(messages)
    assert [entry.message for entry in read_outcomes(tmp_path)] == messages
    entries = list(read_outcomes(tmp_path / "outcomes.parquet"))
    assert entries == list(LogReader(connection, KEYS).outcomes())


def test_a_window_and_an_engine_limit_what_is_read(
    connection: RespConnection, tmp_path: Path
) -> None:
    for i in range(10):
        log_decisions(
            connection, ["s"], [i], ["t"], engine_id=f"engine {i % 2}", entry_id=f"{1000 * i}-1"
        )
    window = LogWindow(2.0, 8.0, "engine 1")
    counts = export_log(LogReader(connection, KEYS, window), tmp_path)
    assert counts.num_decisions == 3
    assert pq.read_table(tmp_path / "decisions.parquet")["turn"].to_pylist() == [3, 5, 7]


def test_what_cannot_be_read_is_left_out_and_counted(
    connection: RespConnection, tmp_path: Path
) -> None:
    log_decisions(connection, ["s"], [0], ["t"])
    ((_, fields),) = connection.execute("XRANGE", KEYS.decisions, "-", "+")
    good = dict(zip(fields[::2], fields[1::2], strict=True))
    for wrong in (
        {b"q": b"\xc1"},
        {b"a": b""},
        {b"a": good[b"a"].replace(b"verb\xc4\x01\x00", b"verb\xc4\x01\x09")},
        {b"at": b"never"},
    ):
        entry = [word for pair in (good | wrong).items() for word in pair]
        connection.execute("XADD", KEYS.decisions, "*", *entry)
    connection.execute("XADD", KEYS.outcomes, "*", "m", b"\x80")
    counts = export_log(LogReader(connection, KEYS), tmp_path)
    assert (counts.num_decisions, counts.num_unreadable) == (1, 5)


def test_an_export_appears_whole_or_not_at_all(
    connection: RespConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_outcomes(connection, KEYS, messages_of(drawn(5)))
    log_decisions(connection, ["s"], [0], ["t"])
    reader = LogReader(connection, KEYS)
    export_log(reader, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    log_decisions(connection, ["s"], [1], ["t"])

    def lost() -> Iterator[object]:
        yield from ()
        raise RedisError("the server is gone")

    monkeypatch.setattr(reader, "outcomes", lost)
    with pytest.raises(RedisError):
        export_log(reader, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == {"decisions.parquet", "outcomes.parquet"}


def test_an_empty_log_gives_empty_files_with_all_columns(
    connection: RespConnection, tmp_path: Path
) -> None:
    export_log(LogReader(connection, KEYS), tmp_path)
    table = pq.read_table(tmp_path / "decisions.parquet")
    assert table.num_rows == 0 and "fact_context_tokens" in table.column_names
    assert list(read_outcomes(tmp_path)) == []


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"no parquet", "not an export's file of outcomes"),
        ({"a": [1]}, "no column 'at'"),
        ({"verb": ["SOMETHING"]}, "SOMETHING"),
        ({"pause_s": ["long"]}, "Expected `float`, got `str`"),
        ({"at": ["today"]}, "timestamp"),
    ],
)
def test_a_file_that_is_no_export_is_refused(
    tmp_path: Path, content: bytes | dict[str, list[object]], named: str
) -> None:
    path = tmp_path / "outcomes.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif "a" in content:
        pq.write_table(pa.table(content), path)
    else:
        from rlkv_service.decision_log.log_reader import OutcomeEntry
        from rlkv_service.decision_log.parquet_columns import outcome_batch

        entries = [OutcomeEntry("1-0", START_S, each) for each in messages_of(drawn(1))[:1]]
        row = outcome_batch(entries).to_pylist()[0]
        pq.write_table(pa.Table.from_pylist([row | {k: v[0] for k, v in content.items()}]), path)
    with pytest.raises(InputError, match=named) as raised:
        list(read_outcomes(tmp_path))
    assert "\n" not in str(raised.value) and "outcomes.parquet" in str(raised.value)
    with pytest.raises(InputError, match="cannot read"):
        list(read_outcomes(tmp_path / "missing"))
