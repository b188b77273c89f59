"""What an answer costs: NumPy and the engine's compiled network beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv.bench.measure import Size, median_cpu_s
from rlkv.bench.onnx_policy import onnx_session
from rlkv_agents.house_rule import House
from rlkv_agents.inference import BatchInference
from rlkv_agents.policy import NUM_VERBS, AgentPolicy, range_of
from rlkv_engine.errors import RlkvError
from rlkv_engine.jit import jit
from rlkv_engine.loop import Policy
from rlkv_engine.mlp import mlp_verb
from rlkv_engine.observe import FEATURES, NUM_FEATURES

HIDDEN = 64
#: Outputs of ONNX Runtime are float32.
TOLERANCE = 1e-5
#: Rows whose logits are as close as this may be answered either way.
_TIE = 1e-4


@jit
def compiled_verbs(
    policy: Policy,
    rows: NDArray[np.float32],
    swap_legal: NDArray[np.bool_],
    verbs: NDArray[np.int64],
) -> None:
    """The verbs that the engine's own loop would answer, into ``verbs [num]``."""
    for k in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            policy.observation[j] = rows[k, j]
        verbs[k] = mlp_verb(policy, swap_legal[k])


def inference(size: Size) -> dict[str, Any]:
    """Microseconds a call of 1 and of 128 rows, each on the same weights and rows.

    Raises:
        RlkvError: two of them answer differently, or ONNX Runtime is not installed.
    """
    policy = random_policy()
    try:
        session = onnx_session(policy)
    except ImportError as error:
        raise RlkvError(f"bench inference needs onnx and onnxruntime: {error}") from error
    numpy_policy, compiled = BatchInference(policy), policy.compiled()
    figures: dict[str, float] = {}
    for num in size.inference_rows:
        rows, masks = random_decisions(num)
        inputs = {"rows": rows, "illegal": (~masks).astype(np.float32)}
        verbs = np.zeros(num, np.int64)
        calls: dict[str, Callable[[], object]] = {
            "numpy": partial(numpy_policy, rows, masks),
            "numba": partial(compiled_verbs, compiled, rows, masks[:, 1].copy(), verbs),
            "onnx": partial(session.run, None, inputs),
        }
        check_agreement(policy, session, rows, masks)
        cpu_us = {
            name: 1e6 * _median_call_s(call, size.inference_calls, size.repetitions)
            for name, call in calls.items()
        }
        figures |= {f"{name}_us_{num}": value for name, value in cpu_us.items()}
        for name in ("numpy", "numba"):
            figures[f"{name}_{num}_over_onnx"] = cpu_us[name] / cpu_us["onnx"]
    # Inside an engine nothing is handed over from Python.
    rows, masks = random_decisions(1000)
    inside = partial(
        compiled_verbs, compiled, rows, masks[:, 1].copy(), np.zeros(len(rows), np.int64)
    )
    seconds = _median_call_s(inside, max(size.inference_calls // 50, 1), size.repetitions)
    figures["numba_us_a_row_inside"] = 1e6 * seconds / len(rows)
    return {
        "figures": figures,
        "measured_on": {
            "network": f"{NUM_FEATURES} -> {HIDDEN} -> {HIDDEN} -> {NUM_VERBS}, random weights",
            "does": "trained range, network, prior, mask, greedy verb; NumPy and ONNX Runtime also"
            " the probabilities",
            "precision": {"numpy": "float64", "numba": "float64", "onnx": "float32"},
            "onnxruntime": _version("onnxruntime"),
            "calls": size.inference_calls,
            "repetitions": size.repetitions,
            "agreement": f"probabilities within {TOLERANCE:g}",
        },
    }


def random_policy(seed: int = 0) -> AgentPolicy:
    """A network of the trained size that differs from its rule, trained on most of the range."""
    rng = np.random.default_rng(seed)
    weights = []
    for rows, columns in ((HIDDEN, NUM_FEATURES), (HIDDEN, HIDDEN), (NUM_VERBS, HIDDEN)):
        layer = rng.standard_normal((rows, columns)) / np.sqrt(columns)
        # As a bundle stores them.
        weights += [layer.astype(np.float32), np.zeros(rows, np.float32)]
    low, high = (np.array([getattr(f, end) for f in FEATURES], float) for end in ("low", "high"))
    high[[f.name for f in FEATURES].index("context")] *= 0.9
    trained = tuple(each.astype(np.float32).astype(np.float64) for each in range_of(low, high))
    return AgentPolicy(
        "random",
        House(),
        [each.astype(np.float64) for each in weights],
        1.5,
        (trained[0], trained[1]),
    )


def random_decisions(num: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Observations ``[num, num_features]`` and masks ``[num, 3]``."""
    rng = np.random.default_rng(seed)
    low, high = ([getattr(f, end) for f in FEATURES] for end in ("low", "high"))
    rows = rng.uniform(low, high, (num, NUM_FEATURES)).astype(np.float32)
    masks = np.ones((num, NUM_VERBS), np.bool_)
    masks[:, 1] = rng.random(num) < 0.5
    verb = rng.integers(NUM_VERBS, size=num)
    rows[:, -NUM_VERBS:] = np.eye(NUM_VERBS)[np.where((verb == 1) & ~masks[:, 1], 2, verb)]
    return rows, masks


def check_agreement(
    policy: AgentPolicy, session: Any, rows: NDArray[np.float32], masks: NDArray[np.bool_]
) -> None:
    """Raises ``RlkvError`` if NumPy, the compiled network and ONNX Runtime answer differently."""
    answers = BatchInference(policy)(rows, masks)
    verbs = np.zeros(len(rows), np.int64)
    compiled_verbs(policy.compiled(), rows, masks[:, 1].copy(), verbs)
    if not np.array_equal(verbs, answers.verb):
        raise RlkvError(f"NumPy and numba differ in {np.sum(verbs != answers.verb)} verbs")
    inputs = {"rows": rows, "illegal": (~masks).astype(np.float32)}
    onnx_verb, probability = session.run(None, inputs)
    worst = float(np.abs(probability - answers.probability).max())
    if worst > TOLERANCE:
        raise RlkvError(f"a probability of ONNX Runtime is off by {worst:g}")
    second, first = np.sort(answers.probability, axis=1)[:, -2:].T
    if (onnx_verb != answers.verb)[first - second > _TIE].any():
        raise RlkvError("ONNX Runtime answers other verbs")


def _median_call_s(call: Callable[[], object], num_calls: int, repetitions: int) -> float:
    def run() -> None:
        for _ in range(num_calls):
            call()

    return median_cpu_s(run, repetitions) / num_calls


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
