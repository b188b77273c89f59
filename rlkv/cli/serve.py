"""``rlkv serve``: the sidecar, and the decision API if it is told to."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlkv.cli.address import read_address
from rlkv.cli.server_place import DEFAULT_DATA_DIR, REDIS_VARIABLE, check_one_place, is_said
from rlkv.cli.service_log import log_to_stderr
from rlkv_engine.errors import InputError
from rlkv_service.decision_api.options import (
    DEFAULT_MAX_BODY_BYTES,
    DEFAULT_MAX_LISTENERS,
    DEFAULT_REQUESTS_PER_S,
    ApiOptions,
)

if TYPE_CHECKING:
    from rlkv.serving import Http
    from rlkv_service.sidecar.sidecar import Sidecar

_LOG_BYTES = 256 * 2**20


def register(app: typer.Typer) -> None:
    """Adds ``serve``."""
    app.command("serve")(serve_command)


def serve_command(
    context: typer.Context,
    bundle: Annotated[
        Path,
        typer.Option(
            help="A trained bundle, or `universal`, the one that comes with rlkv. What replaces it"
            " there is loaded while it runs."
        ),
    ] = Path("universal"),
    redis: Annotated[
        str | None,
        typer.Option(
            envvar=REDIS_VARIABLE,
            help="redis://, rediss:// or unix:// of a Redis 7 or Valkey; without it, one of its"
            " own is started.",
        ),
    ] = None,
    data_dir: Annotated[
        Path,
        typer.Option(help="Of the Valkey of its own: its socket, and what it keeps."),
    ] = DEFAULT_DATA_DIR,
    namespace: Annotated[str, typer.Option(help="Of the keys: one for each deployment.")] = (
        "default"
    ),
    min_confidence: Annotated[
        float, typer.Option(help="Below, the rule answers; on top of the bundle's own threshold.")
    ] = 0.0,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="The policy is logged, and the rule decides.")
    ] = False,
    log_bytes: Annotated[
        int, typer.Option(help="That the log of decisions may take; 0: there is none.")
    ] = _LOG_BYTES,
    http: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT or :PORT of the decision API; an address that others reach needs"
            " --token-file."
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="Hashes of the tokens that clients of the API show.")
    ] = None,
    requests_per_s: Annotated[
        float, typer.Option(help="Of each token of the API whose line says nothing else.")
    ] = DEFAULT_REQUESTS_PER_S,
    max_body_bytes: Annotated[
        int, typer.Option(help="Longest body of a request to the API.")
    ] = DEFAULT_MAX_BODY_BYTES,
    max_listeners: Annotated[
        int, typer.Option(help="Live pages that watch at a time.")
    ] = DEFAULT_MAX_LISTENERS,
) -> None:
    """Answer the decisions of engines over Redis, and over HTTP, until stopped."""
    check_one_place(context)
    _check(namespace, min_confidence, log_bytes)
    for option in ("token_file", "requests_per_s", "max_body_bytes", "max_listeners"):
        if http is None and is_said(context, option):
            name = option.replace("_", "-")
            raise InputError(f"--{name} is of the decision API: give --http too")
    api_options = ApiOptions(token_file, requests_per_s, max_body_bytes, max_listeners)
    # Matrices are small: threads would only wait for each other. Before NumPy is loaded.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    try:
        from rlkv.serving import serve
        from rlkv_service.redis_url import RedisURL
        from rlkv_service.sidecar.sidecar import SidecarOptions

        url = None if redis is None else RedisURL.parse(redis)
        options = SidecarOptions(bundle, namespace, shadow, min_confidence, log_bytes)
        with ExitStack() as stack:
            log_to_stderr(stack)
            api = None if http is None else _listen(http, api_options, stack)

            def on_ready(sidecar: Sidecar) -> None:
                _tell(sidecar, http, api)
                if sys.stderr.isatty():
                    from rlkv.cli.serve_status import show_status

                    stack.enter_context(show_status(sidecar.service))

            serve(url, data_dir, options, api, on_ready)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rlkv"):
            raise
        raise InputError(f"serving needs {error.name}: pip install 'rlkv[sidecar]'") from error


def _check(namespace: str, min_confidence: float, log_bytes: int) -> None:
    if not namespace or not namespace.isprintable() or set(namespace) & set("{}: "):
        raise InputError(f"--namespace must be a word without any of {{}}:, got {namespace!r}")
    if not 0.0 <= min_confidence <= 1.0:
        raise InputError(f"--min-confidence must be from 0 to 1, got {min_confidence:g}")
    if log_bytes < 0:
        raise InputError(f"--log-bytes must be 0 or more, got {log_bytes}")


def _listen(http: str, options: ApiOptions, stack: ExitStack) -> Http:
    from rlkv.serving import Http
    from rlkv_service.web_server.listening import listen

    host, port = read_address("--http", http)
    options.check_host(host)
    return Http(stack.enter_context(listen(host, port)), options)


def _tell(sidecar: Sidecar, http: str | None, api: Http | None) -> None:
    service = sidecar.service
    policy = service.policy
    watching = ", which only watches" if policy.shadow else ""
    typer.echo(f"{policy.version}{watching}, at {service.url}")
    namespace = service.keys.namespace
    said = "" if namespace == "default" else f", namespace={namespace!r}"
    typer.echo(f"engines: rlkv_service.client.Client({str(service.url)!r}, engine_id='...'{said})")
    if api is not None and http is not None:
        from rlkv_service.web_server.listening import url_of

        typer.echo(f"others: {url_of(read_address('--http', http)[0], api.listening)}")
    sys.stdout.flush()
