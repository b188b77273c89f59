"""A policy as an ONNX graph that does all that ``BatchInference`` does, in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.policy import NUM_VERBS, AgentPolicy
from rlkv_engine.observe import NUM_FEATURES

#: Old enough for every runtime of the last years.
_OPSET, _IR_VERSION = 17, 8


def onnx_session(policy: AgentPolicy) -> Any:
    """An ONNX Runtime session of one thread.

    Inputs ``rows [num, num_features]`` and ``illegal [num, 3]`` (1 where a verb is not legal), both
    float32; outputs ``verb [num]`` and ``probability [num, 3]``.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        _graph(policy).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _graph(policy: AgentPolicy) -> Any:
    from onnx import TensorProto, checker, helper, numpy_helper

    assert policy.weights is not None and policy.trained_range is not None
    w1, b1, w2, b2, w3, b3 = policy.weights
    low, high = policy.trained_range
    # The prior times the last three features, as a matrix on all of them.
    prior = np.zeros((NUM_FEATURES, NUM_VERBS))
    prior[-NUM_VERBS:] = policy.prior * np.eye(NUM_VERBS)
    constants: dict[str, NDArray[Any]] = {
        "w1": w1.T, "b1": b1, "w2": w2.T, "b2": b2, "w3": w3.T, "b3": b3, "prior": prior,
        "low": low, "high": high, "forbidding": np.array(-1e9),
    }  # fmt: skip
    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
        for name, value in constants.items()
    ]
    slices = {"first": [NUM_FEATURES - NUM_VERBS], "end": [NUM_FEATURES], "axis": [1]}
    tensors += [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in slices.items()]
    node = helper.make_node
    nodes = [
        node("Gemm", ["rows", "w1", "b1"], ["a1"]),
        node("Tanh", ["a1"], ["h1"]),
        node("Gemm", ["h1", "w2", "b2"], ["a2"]),
        node("Tanh", ["a2"], ["h2"]),
        node("Gemm", ["h2", "w3", "b3"], ["a3"]),
        node("Gemm", ["rows", "prior", "a3"], ["logits"]),
        node("Mul", ["illegal", "forbidding"], ["forbidden"]),
        node("Add", ["logits", "forbidden"], ["legal"]),
        node("Softmax", ["legal"], ["learned"], axis=1),
        node("GreaterOrEqual", ["rows", "low"], ["above"]),
        node("LessOrEqual", ["rows", "high"], ["below"]),
        node("And", ["above", "below"], ["within"]),
        node("Cast", ["within"], ["within_f"], to=TensorProto.FLOAT),
        node("ReduceMin", ["within_f"], ["known_f"], axes=[1], keepdims=1),
        node("Cast", ["known_f"], ["known"], to=TensorProto.BOOL),
        node("Slice", ["rows", "first", "end", "axis"], ["rule"]),
        node("Where", ["known", "learned", "rule"], ["probability"]),
        node("ArgMax", ["probability"], ["verb"], axis=1, keepdims=0),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "policy",
        [
            value("rows", TensorProto.FLOAT, ["num", NUM_FEATURES]),
            value("illegal", TensorProto.FLOAT, ["num", NUM_VERBS]),
        ],
        [
            value("verb", TensorProto.INT64, ["num"]),
            value("probability", TensorProto.FLOAT, ["num", NUM_VERBS]),
        ],
        tensors,
    )
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
    checker.check_model(model)
    return model
