"""A bundle's folder, watched: what is put there while the sidecar runs decides from then on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from rlkv_agents.bundle import METADATA_FILE, WEIGHTS_FILE
from rlkv_agents.shipped import bundle_folder
from rlkv_service.columns import DecisionRows
from rlkv_service.deciding.active_bundle import ActiveBundle
from rlkv_service.deciding.check_rows import check_bundle
from rlkv_service.deciding.decider import Decider

_logger = logging.getLogger(__name__)

#: Of each file: when it was written, its size and its number; None while one is missing.
_Stamp = tuple[tuple[int, int, int], ...] | None


class BundleWatch:
    """Loads a bundle, and the next one whenever its files have changed.

    Args:
        place: its folder, or ``universal``.
        recorded: the latest rows that were asked, which a new bundle has to answer.
        on_reload: hears ``loaded`` or ``refused`` for each bundle after the first.

    Raises:
        InputError: the first one cannot be used.
    """

    def __init__(
        self,
        place: Path | str,
        recorded: Callable[[], Sequence[DecisionRows]] = tuple,
        on_reload: Callable[[str], None] = lambda result: None,
    ) -> None:
        self._place, self._recorded, self._on_reload = place, recorded, on_reload
        self._seen = self._settled = self._stamp()
        self.first = ActiveBundle.load(place)
        check_bundle(self.first, ())

    def look(self, decider: Decider) -> None:
        """Loads and checks what has changed, and lets the decider use it; call it now and then.

        Files are read once they look the same twice: they are not written at once. A bundle that
        cannot be used is refused with one line in the log, and the old one goes on.
        """
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            return
        if stamp == self._settled:
            return
        self._settled = stamp
        try:
            bundle = ActiveBundle.load(self._place)
            if bundle.metadata == decider.bundle.metadata:
                return  # written again as it was
            check_bundle(bundle, self._recorded())
        except Exception as error:  # whatever is in those files, it must not end us
            _logger.error("bundle refused, %s goes on: %s", decider.bundle.version, error)
            self._on_reload("refused")
            return
        _logger.info("bundle %s decides, after %s", bundle.version, decider.bundle.version)
        decider.use(bundle)
        self._on_reload("loaded")

    def _stamp(self) -> _Stamp:
        folder = bundle_folder(self._place)
        try:
            stats = [(folder / name).stat() for name in (METADATA_FILE, WEIGHTS_FILE)]
        except OSError:
            return None
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)
