"""Several networks as one: their mean logits, so that they are only sure where they agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def joined(members: Sequence[Sequence[NDArray[np.float64]]]) -> list[NDArray[np.float64]]:
    """One network whose logits are the mean of the members'.

    Args:
        members: weights as of ``AgentPolicy``, all members with the same features.

    Returns:
        Weights of a network as wide as all of them together, the second layer block by block.
    """
    columns = list(zip(*members, strict=True))
    weight_2 = columns[2]
    starts = np.cumsum([0, *(len(block) for block in weight_2)])
    blocks = np.zeros((starts[-1], starts[-1]))
    for block, start in zip(weight_2, starts[:-1], strict=True):
        blocks[start : start + len(block), start : start + len(block)] = block
    return [
        np.concatenate(columns[0]),
        np.concatenate(columns[1]),
        blocks,
        np.concatenate(columns[3]),
        np.concatenate(columns[4], axis=1) / len(members),
        np.mean(columns[5], axis=0),
    ]
