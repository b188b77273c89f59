"""Where a log is: a server's URL, or the folder of an embedded one that runs or does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rlkv_engine.errors import InputError
from rlkv_service.embedded_valkey import EmbeddedValkey, holds_server_data, socket_url
from rlkv_service.redis_errors import RedisError
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection

#: A page of decisions may be 100 MB, seconds.
TIMEOUT_S = 60.0


@contextmanager
def open_log(url: str | None, data_dir: Path | None) -> Iterator[RespConnection]:
    """A connection to the server that has the log.

    Args:
        url: of a server.
        data_dir: of an embedded server; if it does not run, it does so for the time being.

    Raises:
        InputError: not exactly one of the two, an URL that is none, or a folder without data.
        RlkvError: the server cannot be reached, or does not start.
    """
    if (url is None) == (data_dir is None):
        raise InputError("either --redis or --data-dir says where the log is")
    with ExitStack() as stack:
        if url is not None:
            connection = RespConnection(RedisURL.parse(url), TIMEOUT_S)
        else:
            assert data_dir is not None
            connection = _of_folder(data_dir, stack)
        yield stack.enter_context(connection)


def _of_folder(folder: Path, stack: ExitStack) -> RespConnection:
    if not holds_server_data(folder):
        raise InputError("no rlkv serve has kept its data there", path=folder)
    try:
        return RespConnection(socket_url(folder), TIMEOUT_S)
    except RedisError:
        server = EmbeddedValkey(folder)
        stack.callback(server.stop)
        return RespConnection(server.url, TIMEOUT_S)
