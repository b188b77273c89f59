"""Where tests of the engine run: on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import pytest
import torch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])
DEVICES = ["cpu", GPU]
