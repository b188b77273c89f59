"""Where a client asks, and who it says it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from rlkv_engine.errors import InputError
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.schema import MAX_NAME_LENGTH


@dataclass(frozen=True, slots=True)
class Address:
    """A server, a namespace, and an engine with its profile."""

    url: RedisURL
    keys: RedisKeys
    engine_id: str
    profile_id: str

    @classmethod
    def of(cls, url: str | RedisURL, engine_id: str, namespace: str, profile_id: str) -> Self:
        """Reads what a caller gave.

        Raises:
            InputError: the URL cannot be used, or a name is empty or too long.
        """
        for what, name in (("engine_id", engine_id), ("namespace", namespace)):
            if not name:
                raise InputError(f"{what} is empty")
        for what, name in (
            ("engine_id", engine_id), ("namespace", namespace), ("profile_id", profile_id)
        ):  # fmt: skip
            if len(name) > MAX_NAME_LENGTH:
                raise InputError(f"{what} has {len(name)} characters, at most {MAX_NAME_LENGTH}")
        return cls(
            RedisURL.parse(url) if isinstance(url, str) else url,
            RedisKeys(namespace),
            engine_id,
            profile_id,
        )


def check_deadline_ms(deadline_ms: float) -> float:
    """The deadline; raises ``InputError`` where it is none."""
    if not 0.0 <= deadline_ms < 1e9:
        raise InputError(f"deadline_ms must be 0 or more milliseconds, not {deadline_ms}")
    return deadline_ms
