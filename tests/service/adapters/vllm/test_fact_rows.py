from __future__ import annotations

import dataclasses
import math

from rlkv_engine.facts import FACTS
from rlkv_service.adapters.vllm.fact_rows import Candidate, Machine, Moment, Need, fact_rows
from rlkv_service.client import decision_rows
from rlkv_service.columns import check_facts


def test_every_number_is_in_the_place_of_its_name() -> None:
    machine = Machine(16, 1001, 1002, 1003, 0.004, 0.005, 0.006)
    moment = Moment(1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 1015)
    needs = [Need(0), Need(2, 1016, 1017, 1018.0)]
    candidates = [
        Candidate(
            "a", 4, "search", 2001, 2002, 2003, 2004, True, 2005.0, 2006.0, 2007.0, 9.0, 0, 2003
        ),
        Candidate(
            "b", 5, "human", 3001, 3002, 3003, 3004, False, 3005.0, 3006.0, 3007.0, 9.0, 1, 1017
        ),
    ]
    rows = fact_rows(machine, moment, candidates, needs)
    said = {
        name: [getattr(each, name) for each in group]
        for group in ([machine] * 2, [moment] * 2, needs, candidates)
        for name in (field.name for field in dataclasses.fields(group[0]))
        if name not in ("session", "turn", "tool", "remaining_s", "host_room_blocks")
    }
    # All that is not on the host is copied at a CALL, elsewhere what is missing.
    said["swap_is_legal"] = [False, True]
    names = {fact.name for fact in FACTS}
    assert said.keys() <= names
    by_name = decision_rows(["a", "b"], [4, 5], ["search", "human"], num_turns=[5, 6], **said)
    assert rows.sessions == by_name.sessions and rows.tools == by_name.tools
    assert rows.turns.tolist() == by_name.turns.tolist()
    for mine, theirs in zip(rows.facts.ravel(), by_name.facts.ravel(), strict=True):
        assert mine == theirs or (math.isnan(mine) and math.isnan(theirs))
    check_facts(rows.facts)
