"""The connections of the asyncio client: one asks, one waits for answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Self

from rlkv_service.client.client_state import ClientState
from rlkv_service.client.exchange import Exchange
from rlkv_service.client.line import Line
from rlkv_service.client.timeouts import ANSWERS_WAIT_S, CONNECT_TIMEOUT_S
from rlkv_service.redis_errors import RedisError, RedisReplyError
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import greeting, tls_context
from rlkv_service.resp_parser import Reply, RespParser, Word, encode_command
from rlkv_service.server_clock import ServerClock

_CHUNK_BYTES = 1 << 16


class AsyncStream:
    """One connection by asyncio.

    Raises:
        RedisError: it is lost.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._parser = RespParser()

    @classmethod
    async def open(cls, url: RedisURL) -> Self:
        """Connects, and says who we are."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                stream = cls(*await _open(url))
                try:
                    for words in greeting(url):
                        await stream.execute(*words)
                except BaseException:
                    stream.close()
                    raise
                return stream
        except TimeoutError as error:
            raise RedisError(f"{url} does not answer") from error
        except (OSError, ValueError) as error:
            raise RedisError(f"{url} cannot be reached: {error}") from error

    async def execute(self, *words: Word) -> Reply:
        """Sends a command while no other is under way, and its reply."""
        self.write(encode_command(*words))
        while not (replies := await self.read()):
            pass
        if isinstance(replies[0], RedisReplyError):
            raise replies[0]
        return replies[0]

    def write(self, raw: bytes) -> None:
        """Sends, without waiting."""
        self._writer.write(raw)

    async def read(self) -> list[Reply]:
        """What has come, once something has; perhaps a part of a reply, which is none yet."""
        try:
            chunk = await self._reader.read(_CHUNK_BYTES)
        except OSError as error:
            raise RedisError(f"the server is gone: {error}") from error
        if not chunk:
            raise RedisError("the server has closed the connection")
        return self._parser.feed(chunk)

    def close(self) -> None:
        """Ends it, without saying goodbye."""
        self._writer.transport.abort()


class AsyncLink:
    """Both connections, open."""

    def __init__(self, asking: AsyncStream, answers: AsyncStream, exchange: Exchange) -> None:
        self.exchange = exchange
        self._asking, self._answers = asking, answers
        self.asking_line, self._answers_line = Line(), Line()
        self._readers: list[asyncio.Task[None]] = []

    @classmethod
    async def open(cls, state: ClientState) -> Self:
        """Connects.

        Raises:
            RedisError: the server cannot be reached, or refuses who we are.
        """
        clock, url = ServerClock(), state.address.url
        asking = await AsyncStream.open(url)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                before_s = time.monotonic()
                clock.learn(await asking.execute("TIME"), before_s, time.monotonic())
            answers = await AsyncStream.open(url)
        except TimeoutError as error:
            asking.close()
            raise RedisError(f"{url} does not answer") from error
        except BaseException:
            asking.close()
            raise
        return cls(asking, answers, Exchange(state, clock, time.monotonic()))

    def start(self, on_replies: Callable[[], None], on_lost: Callable[[RedisError], None]) -> None:
        """Begins to receive, and tells of it."""

        async def receive(stream: AsyncStream, line: Line, waits: bool) -> None:
            try:
                while True:
                    if waits and line.is_idle:
                        stream.write(self.exchange.wait_for_answers(line, ANSWERS_WAIT_S))
                    replies = await stream.read()
                    self.exchange.at(time.monotonic())
                    line.take(replies)
                    on_replies()
            except RedisError as error:
                self.exchange.at(time.monotonic())
                on_lost(error)

        self._readers = [
            asyncio.create_task(receive(self._asking, self.asking_line, False)),
            asyncio.create_task(receive(self._answers, self._answers_line, True)),
        ]

    def write(self, raw: bytes) -> None:
        """Sends what the exchange says, without waiting."""
        self._asking.write(raw)

    def close(self) -> None:
        """Ends both connections."""
        for reader in self._readers:
            reader.cancel()
        self._asking.close()
        self._answers.close()


async def _open(url: RedisURL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if url.path:
        return await asyncio.open_unix_connection(url.path)
    context = tls_context(url) if url.tls else None
    return await asyncio.open_connection(url.host, url.port, ssl=context)
