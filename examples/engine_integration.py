"""An engine asks a sidecar what becomes of paused sessions' KV, and waits for it in no step.

    rlkv serve &
    python examples/engine_integration.py unix://$PWD/rlkv-data/valkey.sock

``Decisions`` is what an engine adds, ``ToyEngine`` stands for the engine, and
docs/use-in-your-engine.md explains both. Without a sidecar the engine's own rule decides.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass

from rlkv_service.client import EngineClient, Outcome, Point, SessionEnd, Verb, decision_rows

BLOCK_SIZE = 16
#: Of the machine and its model; `rlkv calibrate` measures the costs of yours.
MACHINE = {
    "block_size": BLOCK_SIZE, "num_device_blocks": 600, "num_host_blocks": 600,
    "max_num_seqs": 8, "prefill_token_s": 8e-5, "swap_out_block_s": 1e-4, "swap_in_block_s": 1e-4,
}  # fmt: skip


@dataclass(eq=False)
class Session:
    """What the toy knows of a session; yours knows more."""

    name: str
    context_tokens: int
    turn: int = 0
    tool: str = "search"
    where: str = "device"  # or "host", or "nowhere": computed again when it returns
    paused_at_s: float = 0.0
    back_at_step: int = 0

    @property
    def blocks(self) -> int:
        """Blocks of its context."""
        return -(-self.context_tokens // BLOCK_SIZE)


class Decisions:
    """The integration: ask when a pause begins and when memory runs short, apply, report."""

    def __init__(self, client: EngineClient, engine_id: str) -> None:
        self.client, self.engine_id = client, engine_id
        #: By session and turn: an answer about another pause is of no use.
        self.verbs: dict[tuple[str, int], Verb] = {}

    def ask(self, point: Point, sessions: list[Session], **moment: float) -> None:
        """Hands one row for each session over; returns at once."""
        now_s = time.monotonic()
        rows = decision_rows(
            [each.name for each in sessions],
            [each.turn for each in sessions],
            [each.tool for each in sessions],
            **MACHINE,
            **moment,
            point=point,
            context_tokens=[each.context_tokens for each in sessions],
            elapsed_s=[now_s - each.paused_at_s for each in sessions],
            rank=list(range(len(sessions))),
        )
        self.client.ask(rows, [(each.name, each.turn) for each in sessions])

    def collect(self) -> None:
        """Once in every step: what has been answered since the last."""
        for pauses, verdicts in self.client.collect():
            self.verbs.update(zip(pauses, map(Verb, verdicts.verb.tolist()), strict=True))

    def verb_of(self, session: Session, rule: Verb) -> Verb:
        """The sidecar's verb about this pause, else the engine's own."""
        return self.verbs.get((session.name, session.turn), rule)

    def returned(self, session: Session, reused_tokens: int) -> None:
        """The tool is back: what came of the pause. The next forecasts are learnt from it."""
        pause_s = time.monotonic() - session.paused_at_s
        verb = self.verbs.pop((session.name, session.turn), -1)
        outcome = Outcome(
            1, self.engine_id, session.name, session.turn, session.tool, pause_s,
            session.context_tokens, verb=verb,
            recomputed_tokens=session.context_tokens - reused_tokens,
        )  # fmt: skip
        self.client.report([outcome])

    def ended(self, session: Session) -> None:
        """The session does not come back."""
        self.client.end([SessionEnd(1, self.engine_id, session.name, session.turn)])


class ToyEngine:
    """Sessions that answer for one step and pause for some; a batch that is only waited for."""

    def __init__(self, decisions: Decisions, step_s: float, num_sessions: int = 12) -> None:
        self.decisions, self.step_s, self.step = decisions, step_s, 0
        self.random = random.Random(0)
        self.paused: list[Session] = []
        self.waiting = [Session(f"agent-{i}", 900 + 100 * i) for i in range(num_sessions)]
        #: Tokens of contexts, by what became of them while their sessions were away.
        self.tokens = {"device": 0, "host": 0, "nowhere": 0}

    def run(self) -> None:
        """Until every session has had four turns."""
        while self.waiting or self.paused:
            self.decisions.collect()
            for session in [each for each in self.paused if each.back_at_step <= self.step]:
                self.resume(session)
            if self.waiting:
                self.start(self.waiting.pop(0))
            time.sleep(self.step_s)  # here the batch runs
            self.step += 1

    def resume(self, session: Session) -> None:
        """A tool came back."""
        self.paused.remove(session)
        self.tokens[session.where] += session.context_tokens
        reused = 0 if session.where == "nowhere" else session.context_tokens
        self.decisions.returned(session, reused)
        session.turn += 1
        session.context_tokens += 200
        if session.turn == 4:
            self.decisions.ended(session)
        else:
            self.start(session)

    def start(self, session: Session) -> None:
        """A turn: make room, answer, pause."""
        point = Point.RESUME if session.turn else Point.NEW
        self.make_room(session.blocks, point)
        session.where = "device"
        session.paused_at_s = time.monotonic()
        session.back_at_step = self.step + self.random.choice((3, 10, 60))
        self.paused.append(session)
        self.decisions.ask(Point.CALL, [session], **self.memory())

    def make_room(self, need: int, point: Point) -> None:
        """Takes from paused sessions, the longest away first, as the verdicts say."""
        candidates = [each for each in self.paused if each.where == "device"]
        verbs = {each: self.decisions.verb_of(each, Verb.DISCARD) for each in candidates}
        # Whom the verdicts would leave alone comes last.
        for session in sorted(candidates, key=lambda each: verbs[each] is Verb.PRESERVE):
            if self.free >= need:
                break
            to_host = verbs[session] is Verb.SWAP and self.host_free >= session.blocks
            session.where = "host" if to_host else "nowhere"
        # Ahead of the next time: the answers are there when memory is short again.
        left = [each for each in candidates if each.where == "device"][:16]
        if left and self.free < 3 * need:
            short = {"need_blocks": need, "short_blocks": need}
            self.decisions.ask(point, left, **self.memory(), **short)

    def memory(self) -> dict[str, float]:
        """The moment, as the facts call it."""
        held = sum(each.blocks for each in self.paused if each.where == "device")
        return {
            "free_blocks": self.free, "paused_blocks": held, "host_free_blocks": self.host_free,
            "num_paused": max(len(self.paused), 1), "num_new": len(self.waiting),
        }  # fmt: skip

    @property
    def free(self) -> int:
        """Blocks of the device that nobody has."""
        held = sum(each.blocks for each in self.paused if each.where == "device")
        return int(MACHINE["num_device_blocks"]) - held

    @property
    def host_free(self) -> int:
        """Blocks of the host that nobody has."""
        held = sum(each.blocks for each in self.paused if each.where == "host")
        return int(MACHINE["num_host_blocks"]) - held


def main(
    url: str = "unix:///run/rlkv/valkey.sock", step_s: float = 0.02, deadline_ms: float = 50.0
) -> ToyEngine:
    """Serves twelve agents, and says what the sidecar answered and what came of their KV."""
    with EngineClient(url, engine_id="toy", deadline_ms=deadline_ms) as client:
        engine = ToyEngine(Decisions(client, "toy"), step_s)
        engine.run()
        counts = client.counts
        print(f"{counts.answered} answers of the sidecar, {counts.local} times our own rule")
        if counts.last_error:
            print(f"the last that went wrong: {counts.last_error}")
        for place, tokens in engine.tokens.items():
            print(f"{tokens} tokens were on return: {place}")
        return engine


if __name__ == "__main__":
    main(*sys.argv[1:])
