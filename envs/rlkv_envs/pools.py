"""Who holds which share of the two pools, in the order in which pictures show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rlkv_engine import state as S

#: States of device blocks, then of host blocks; free ones come last in both.
DEVICE_STATES = ("running", "queued", "paused", "copying out", "reclaimable", "free")
HOST_STATES = ("of paused", "of others", "reserved", "free")

POINTS = ("", "a new session", "a session that came back", "a session that decodes")


class Segment(NamedTuple):
    """Blocks of one session in one state; the free ones belong to session -1."""

    state: str
    sid: int
    num_blocks: int


@dataclass(frozen=True, slots=True)
class Pools:
    """Both pools of an engine and the decision it waits for."""

    now_s: float
    device: list[Segment]
    host: list[Segment]
    candidate: int  #: session that the open decision is about; -1 without one
    question: str

    def shares(self, tier: str) -> dict[str, float]:
        """Share of a pool ("device" or "host") in each of its states."""
        segments = self.device if tier == "device" else self.host
        states = DEVICE_STATES if tier == "device" else HOST_STATES
        total = max(1, sum(segment.num_blocks for segment in segments))
        held = dict.fromkeys(states, 0)
        for segment in segments:
            held[segment.state] += segment.num_blocks
        return {state: blocks / total for state, blocks in held.items()}


def read_pools(stack: S.State, engine: int) -> Pools:
    """The pools of one engine of a stack."""
    n, slot = stack.n[engine], stack.slot[engine]
    device: list[Segment] = []
    host: list[Segment] = []
    for s in range(slot.shape[1]):
        phase = slot[S.PHASE, s]
        if phase == S.EMPTY:
            continue
        sid, keep = int(slot[S.SID, s]), int(slot[S.KEEP, s])
        soft = int(slot[S.DEV, s]) - keep
        firm = {S.PAUSED: "paused", S.QUEUED: "queued"}.get(int(phase), "running")
        pending = slot[S.JOB, s] == S.SWAP_OUT
        copies = int(slot[S.HOST_HI, s] - slot[S.HOST_LO, s])
        device.append(Segment(firm, sid, keep))
        device.append(Segment("copying out" if pending else "reclaimable", sid, soft))
        host.append(Segment("of paused" if phase == S.PAUSED else "of others", sid, copies))
        host.append(Segment("reserved", sid, int(slot[S.HOST_RESERVED, s])))
    device.append(Segment("free", -1, int(n[S.FREE])))
    host.append(Segment("free", -1, int(n[S.HOST_FREE])))
    decides = bool(n[S.DECISION])
    candidate = int(slot[S.SID, n[S.DECISION_SLOT]]) if decides else -1
    return Pools(
        now_s=float(stack.f[engine, S.NOW]),
        device=_ordered(device, DEVICE_STATES),
        host=_ordered(host, HOST_STATES),
        candidate=candidate,
        question=_question(n, candidate) if decides else "the episode is over",
    )


def _ordered(segments: list[Segment], states: tuple[str, ...]) -> list[Segment]:
    held = [segment for segment in segments if segment.num_blocks > 0]
    return sorted(held, key=lambda segment: (states.index(segment.state), segment.sid))


def _question(n: S.I8, candidate: int) -> str:
    point = int(n[S.DECISION_POINT])
    if point == S.CALL:
        return f"session {candidate} calls a tool, holding {n[S.DECISION_TAKE]} blocks"
    return f"{POINTS[point]} needs {n[S.DECISION_TAKE]} blocks of paused session {candidate}"
