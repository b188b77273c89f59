"""Forks, and interpreters that end without a word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.resp import RespConnection
from tests.service.client.answering import Responder

ROOT = Path(__file__).parents[3]

BEGIN = """
import os, sys, time
sys.path[:0] = {path!r}
from rlkv_service.client import BreakerSettings, Client, EngineClient, Reason
from tests.service.client.asking import check_rows_match, outcome, rows_about

def answered(decide, first):
    for _ in range(2000):
        rows = rows_about(first, 3)
        verdicts = decide(rows)
        if verdicts is not None:
            check_rows_match(rows, verdicts)
            if (verdicts.reason < Reason.LATE).all():
                return
        time.sleep(0.005)
    raise SystemExit("no answer")

def by_engine(client):
    def decide(rows):
        client.ask(rows, rows)
        time.sleep(0.005)
        for asked, verdicts in client.collect():
            check_rows_match(asked, verdicts)
            if asked is rows:
                return verdicts
    return decide

quick = BreakerSettings(first_probe_s=0.01, max_probe_s=0.1)
client = Client(sys.argv[1], engine_id="a", deadline_ms=2000.0, breaker=quick)
engine_client = EngineClient(sys.argv[1], engine_id="b", deadline_ms=2000.0, breaker=quick)
answered(client.decide, 10)
answered(by_engine(engine_client), 10)
"""

FORK = """
child = os.fork()
who = "child" if child == 0 else "parent"
for i in range(20):
    answered(client.decide, 100 if child == 0 else 500)
    answered(by_engine(engine_client), 100 if child == 0 else 500)
assert client.report([outcome(who, engine_id="a")], deadline_ms=10_000.0)
engine_client.report([outcome(who, engine_id="b")])
client.close()
engine_client.close()
if child:
    _, status = os.waitpid(child, 0)
    raise SystemExit(os.waitstatus_to_exitcode(status))
"""


def run(program: str, server: EmbeddedValkey) -> None:
    path = [str(ROOT), *(str(ROOT / name) for name in ("engine", "service"))]
    process = subprocess.run(
        [sys.executable, "-c", BEGIN.format(path=path) + program, str(server.url)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.stderr == ""
    assert process.returncode == 0


def test_a_child_of_fork_has_connections_of_its_own(
    valkey: EmbeddedValkey, responder: Responder
) -> None:
    # Newer Pythons warn of forks in a program with threads, which every client is.
    run("import warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n" + FORK, valkey)
    with RespConnection(valkey.url) as connection:
        assert connection.execute("XLEN", RedisKeys().outcomes) == 4


def test_a_program_ends_without_closing(valkey: EmbeddedValkey, responder: Responder) -> None:
    run("client.report([outcome('x')], deadline_ms=0.0)", valkey)


def test_a_program_ends_while_nothing_answers(valkey: EmbeddedValkey, responder: Responder) -> None:
    run(
        "import signal\n"
        f"os.kill({valkey.pid}, signal.SIGSTOP)\n"
        "client.decide(rows_about(1), deadline_ms=50.0)\n"
        "engine_client.ask(rows_about(1), 1)\n"
        f"time.sleep(0.1)\nos.kill({valkey.pid}, signal.SIGCONT)\n",
        valkey,
    )
