"""Nothing that goes wrong in the plug-in may reach vLLM: it is said once, and then we are out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")


class Guard:
    """Calls what is ours; after the first exception nothing is called any more.

    Args:
        logger: where it is said.
        on_failure: lets go of everything; it may fail, too.
    """

    def __init__(self, logger: logging.Logger, on_failure: Callable[[], object]) -> None:
        self._logger, self._on_failure = logger, on_failure
        #: Why nothing is called any more; empty: it is.
        self.why_off = ""
        #: What all calls together have taken, nanoseconds.
        self.spent_ns = 0

    @property
    def is_on(self) -> bool:
        """Whether anything is called."""
        return not self.why_off

    def off(self, why: str) -> None:
        """Says once why nothing is called from now on."""
        if not self.why_off:
            self.why_off = why
            self._logger.warning("rlkv is off, vLLM serves without it: %s", why)

    def call(self, work: Callable[[], R], otherwise: R) -> R:
        """What ``work`` returns; ``otherwise`` where it fails or the plug-in is off."""
        if self.why_off:
            return otherwise
        start_ns = time.perf_counter_ns()
        try:
            return work()
        except Exception as error:
            self._logger.exception("rlkv has failed")
            self.off(f"{type(error).__name__}: {error}")
            try:
                self._on_failure()
            except Exception:
                self._logger.exception("rlkv could not let go of everything")
            return otherwise
        finally:
            self.spent_ns += time.perf_counter_ns() - start_ns

    def run(self, work: Callable[[], object]) -> bool:
        """Whether ``work`` was done."""
        done = object()

        def all_of_it() -> object:
            work()
            return done

        return self.call(all_of_it, None) is done
