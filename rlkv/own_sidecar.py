"""A sidecar of one's own, for as long as something needs one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlkv.sidecar_process import SidecarProcess
from rlkv_agents.shipped import bundle_folder
from rlkv_service.redis_url import RedisURL


@contextmanager
def own_sidecar(bundle: Path | str) -> Iterator[RedisURL]:
    """Starts a sidecar with a bundle and a Valkey of its own; both end with the block.

    Yields:
        Where it is asked.

    Raises:
        RlkvError: it does not start; the text has the last of what it said.
    """
    with SidecarProcess("--bundle", str(bundle_folder(bundle))) as process:
        yield RedisURL.parse(process.url)
