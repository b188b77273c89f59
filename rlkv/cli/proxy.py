"""``rlkv proxy``: a pass-through in front of a backend."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlkv.cli.address import read_address
from rlkv.cli.key_file import read_key
from rlkv.cli.server_place import REDIS_VARIABLE
from rlkv.cli.service_log import log_to_stderr
from rlkv_engine.errors import InputError

if TYPE_CHECKING:
    from rlkv_service.proxy.options import ProxyOptions

BACKEND_KEY_VARIABLE = "RLKV_BACKEND_KEY"


def register(app: typer.Typer) -> None:
    """Adds ``proxy``."""
    app.command("proxy")(proxy_command)


def proxy_command(
    backend_url: Annotated[
        str, typer.Option(help="http:// or https:// of the server that answers.")
    ],
    backend: Annotated[
        str,
        typer.Option(
            help="Whose words hints are in: vllm, vllm-offloading, sglang... as docs/hints.md has"
            " them; openai and rlkv get none."
        ),
    ] = "openai",
    redis: Annotated[
        str | None,
        typer.Option(
            envvar=REDIS_VARIABLE,
            help="Of the sidecar (rlkv serve); without it, nothing is asked or reported.",
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(help="HOST:PORT or :PORT; an address that others reach needs --token-file."),
    ] = ":8710",
    token_file: Annotated[
        Path | None, typer.Option(help="Hashes of the tokens that clients show.")
    ] = None,
    backend_key_file: Annotated[
        Path | None,
        typer.Option(
            help=f"A file whose first line the backend is shown; or {BACKEND_KEY_VARIABLE}."
        ),
    ] = None,
    namespace: Annotated[str, typer.Option(help="Of the sidecar's keys.")] = "default",
    engine_id: Annotated[
        str, typer.Option(help="The engine's name in what is reported of it.")
    ] = "proxy",
    verdicts: Annotated[
        bool | None,
        typer.Option(
            help="Whether requests carry the newest verdict; unless said, not for vllm, whose"
            " plug-in asks for its own."
        ),
    ] = None,
    lmcache_url: Annotated[
        str | None, typer.Option(help="Of LMCache's server, where hints call it.")
    ] = None,
    block_size: Annotated[
        float | None, typer.Option(help="Tokens of a block, if the backend's metrics are silent.")
    ] = None,
    device_blocks: Annotated[float | None, typer.Option(help="Blocks of the device; the same.")] = (
        None
    ),
    host_blocks: Annotated[float | None, typer.Option(help="Blocks of the host tier.")] = None,
    max_num_seqs: Annotated[float | None, typer.Option(help="Most sessions in a batch.")] = None,
    prefill_token_s: Annotated[
        float | None, typer.Option(help="Seconds for a token of a prompt; else measured.")
    ] = None,
    max_body_bytes: Annotated[int, typer.Option(help="Longest body of a request.")] = 64 * 2**20,
    max_sessions: Annotated[int, typer.Option(help="Sessions that are remembered.")] = 4096,
    session_idle_s: Annotated[
        float, typer.Option(help="A session that is paused for so long ends, seconds.")
    ] = 1800.0,
    connect_timeout_s: Annotated[float, typer.Option(help="To reach the backend, seconds.")] = 5.0,
    silence_timeout_s: Annotated[
        float, typer.Option(help="A backend that says nothing for so long has failed, seconds.")
    ] = 3600.0,
) -> None:
    """Pass requests through to a backend, name their sessions, and tell of their pauses."""
    host, port = read_address("--listen", listen)
    try:
        from rlkv_service.proxy.app import Proxy
        from rlkv_service.proxy.backend_url import BackendURL
        from rlkv_service.proxy.options import ProxyOptions
        from rlkv_service.redis_url import RedisURL
        from rlkv_service.web_server.listening import listen as listen_at
        from rlkv_service.web_server.listening import url_of
        from rlkv_service.web_server.running import run_app
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rlkv"):
            raise
        raise InputError(f"the proxy needs {error.name}: pip install 'rlkv[sidecar]'") from error
    machine = {
        "block_size": block_size,
        "num_device_blocks": device_blocks,
        "num_host_blocks": host_blocks,
        "max_num_seqs": max_num_seqs,
        "prefill_token_s": prefill_token_s,
    }
    options = ProxyOptions(
        url=BackendURL.parse(backend_url),
        backend=backend,
        redis=None if redis is None else RedisURL.parse(redis),
        namespace=namespace,
        engine_id=engine_id,
        sends_verdicts=verdicts,
        token_file=token_file,
        backend_key=read_key(backend_key_file)
        if backend_key_file
        else os.environ.get(BACKEND_KEY_VARIABLE),
        lmcache=None if lmcache_url is None else BackendURL.parse(lmcache_url),
        machine={name: value for name, value in machine.items() if value is not None},
        max_body_bytes=max_body_bytes,
        max_sessions=max_sessions,
        session_idle_s=session_idle_s,
        connect_timeout_s=connect_timeout_s,
        silence_timeout_s=silence_timeout_s,
    )
    options.check_host(host)
    with ExitStack() as stack:
        log_to_stderr(stack)
        listening = stack.enter_context(listen_at(host, port))
        proxy = Proxy(options)
        _tell(options, url_of(host, listening))
        run_app(proxy.app, listening, passes_through=True)


def _tell(options: ProxyOptions, url: str) -> None:
    typer.echo(f"{url} passes to {options.url}")
    hints = "no hints" if options.mapper is None else f"hints for {options.backend}"
    sidecar = "no sidecar" if options.redis is None else f"sidecar at {options.redis}"
    typer.echo(f"{hints}, {sidecar}; metrics at {url}/rlkv/metrics")
    sys.stdout.flush()
