"""``rlkv engine``: a real model under the scheduler and a policy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlkv.cli.engine_demo import demo_command
from rlkv.cli.key_file import read_key
from rlkv.cli.model_options import Device, Dtype, Model, Threads
from rlkv_engine.errors import InputError
from rlkv_service.web_server.listening import is_loopback, listen, url_of

if TYPE_CHECKING:
    from rlkv_engine.paged.engine import PagedEngine
    from rlkv_engine.paged.loading import LoadedModel

KEY_VARIABLE = "RLKV_API_KEY"


def register(app: typer.Typer) -> None:
    """Adds ``engine serve`` and ``engine demo``."""
    group = typer.Typer(no_args_is_help=True, help="A real model under the scheduler.")
    group.command("serve")(serve_command)
    group.command("demo")(demo_command)
    app.add_typer(group, name="engine")


def serve_command(
    model: Model = "tiny",
    profile: Annotated[
        str | None,
        typer.Option(
            help="What the model costs here: a file of rlkv calibrate; tiny does without."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address; one that others reach needs a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    policy: Annotated[
        str, typer.Option(help="A rule's name, `universal`, or a bundle's folder.")
    ] = "house",
    workload: Annotated[
        str, typer.Option(help="Whose pauses are what is known of pauses, by the names of tools.")
    ] = "coding-agent",
    device_blocks: Annotated[
        int | None, typer.Option(help="Blocks of the device pool; without it, the profile's.")
    ] = None,
    host_blocks: Annotated[
        int | None, typer.Option(help="Blocks of the host pool; without it, the profile's.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    threads: Threads = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            help=f"What clients must show. {KEY_VARIABLE} keeps it out of lists of processes."
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="A file whose first line is the key.")
    ] = None,
    max_sessions: Annotated[
        int, typer.Option(help="Sessions kept; one more ends the one that was paused longest.")
    ] = 1024,
    session_idle_s: Annotated[
        float, typer.Option(help="A session that is paused for so long ends, seconds.")
    ] = 1800.0,
    max_body_bytes: Annotated[int, typer.Option(help="Longest body of a request.")] = 16 * 2**20,
) -> None:
    """Serve a model with the OpenAI protocol; sessions pause while their tools run."""
    # What can be refused at once is, before anything is loaded.
    key = _read_key(api_key, api_key_file)
    if key is None and not is_loopback(host):
        raise InputError(
            f"--host {host} can be reached by others: give --api-key-file, --api-key or"
            f" {KEY_VARIABLE}"
        )
    try:
        from rlkv_service.openai_server.app import create_app
        from rlkv_service.openai_server.options import ServerOptions
        from rlkv_service.web_server.running import run_app
    except ModuleNotFoundError as error:
        raise InputError(f"serving needs {error.name}: pip install 'rlkv[server]'") from error
    options = ServerOptions(key, max_sessions, session_idle_s, max_body_bytes)
    with listen(host, port) as listening:
        from rlkv.engine_setup import check_setup, load

        check_setup(model, profile, policy, workload)
        loaded = load(model, device, dtype, threads)
        engine = _ready_engine(loaded, profile, device_blocks, host_blocks, policy, workload)
        app = create_app(loaded, engine, options)
        typer.echo(f"{loaded.name} at {url_of(host, listening)}/v1")
        run_app(app, listening)


def _ready_engine(
    loaded: LoadedModel,
    profile: str | None,
    device_blocks: int | None,
    host_blocks: int | None,
    policy: str,
    workload: str,
) -> PagedEngine:
    from rlkv.engine_setup import build_engine, engine_profile, warm_up

    costs = engine_profile(loaded, profile, device_blocks, host_blocks)
    token_bytes = loaded.config.kv_token_bytes(loaded.model.dtype)
    if costs.kv_bytes_per_token != token_bytes:
        typer.echo(
            f"warning: profile {costs.name} is of a model with {costs.kv_bytes_per_token} B of KV"
            f" per token, {loaded.name} has {token_bytes}: decisions will be off",
            err=True,
        )
    engine = build_engine(loaded, costs, policy=policy, workload=workload)
    typer.echo("compiling: up to two minutes the first time", err=True)
    warm_up(engine)
    return engine


def _read_key(key: str | None, file: Path | None) -> str | None:
    if key is not None and file is not None:
        raise InputError("--api-key and --api-key-file exclude each other")
    if file is None:
        return os.environ.get(KEY_VARIABLE) if key is None else key
    return read_key(file)
