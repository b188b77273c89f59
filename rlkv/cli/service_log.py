"""What a service says while it runs, on standard error."""

from __future__ import annotations

import logging
from contextlib import ExitStack


def log_to_stderr(stack: ExitStack) -> None:
    """Until the end of the stack."""
    logger, handler = logging.getLogger("rlkv_service"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("rlkv: %(message)s"))
    logger.addHandler(handler)
    stack.callback(logger.removeHandler, handler)
    logger.setLevel(logging.INFO)
