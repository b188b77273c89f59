from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rlkv_engine.facts import FACTS
from rlkv_service.columns import rows_of
from rlkv_service.schema import DecisionRequest, SchemaError
from rlkv_service.sidecar.compiled_facts import read_facts

NUMBERS = st.sampled_from(
    [0.0, 1.0, 2.0, 3.0, 0.5, 16.0, 1e12, 1e13, -1.0, 1e-13, np.nan, np.inf, -np.inf]
)
LIKELY = st.sampled_from([1.0, 2.0, 3.0])


@st.composite
def requests(draw: st.DrawFn) -> DecisionRequest:
    num = draw(st.integers(1, 4))
    numbers = draw(st.sampled_from([LIKELY, LIKELY, NUMBERS]))
    facts = {}
    for fact in FACTS:
        if fact.default is None or draw(st.booleans()):
            size = draw(st.sampled_from([1, num]))
            column = draw(st.lists(numbers, min_size=size, max_size=size))
            facts[fact.name] = np.array(column).tobytes()
    if draw(st.integers(0, 9)) == 0:
        del facts[draw(st.sampled_from(sorted(facts)))]
    return DecisionRequest(1, 1, "e", ["s"] * num, bytes(4 * num), ["t"] * num, facts)


@given(requests())
def test_facts_are_read_and_refused_as_numpy_does(request: DecisionRequest) -> None:
    try:
        expected = rows_of(request)
    except SchemaError as error:
        try:
            rows_of(request, read_facts)
        except SchemaError as own:
            assert str(own) == str(error)
            return
        raise
    np.testing.assert_array_equal(rows_of(request, read_facts).facts, expected.facts)
