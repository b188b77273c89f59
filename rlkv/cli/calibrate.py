"""``rlkv calibrate``: a profile of a model on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlkv.cli.model_options import Device, Dtype, Model, Threads
from rlkv.cli.output import AsJson, check_writable

if TYPE_CHECKING:
    from rlkv.calibration import Calibration

DEFAULT_OUT = Path("runs/calibration")


def register(app: typer.Typer) -> None:
    """Adds ``calibrate``."""
    app.command("calibrate")(calibrate_command)


def calibrate_command(
    model: Model = "tiny",
    out: Annotated[
        Path,
        typer.Option(help="Folder of profile.toml and its picture; interrupted, it goes on there."),
    ] = DEFAULT_OUT,
    device: Device = None,
    dtype: Dtype = None,
    threads: Threads = None,
    device_blocks: Annotated[int, typer.Option(help="Blocks of the device pool.")] = 512,
    host_blocks: Annotated[int, typer.Option(help="Blocks of the host pool.")] = 1024,
    block_size: Annotated[int, typer.Option(help="Tokens of a block.")] = 16,
    max_num_seqs: Annotated[int, typer.Option(help="Sessions in a batch, at most.")] = 16,
    max_num_batched_tokens: Annotated[int, typer.Option(help="Tokens in an iteration.")] = 256,
    rounds: Annotated[int, typer.Option(help="Times that every load is measured.")] = 3,
    seed: Annotated[int, typer.Option(help="Of loads and prompts.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure what iterations and copies of a model cost on this machine, and write its profile.

    ``rlkv train``, ``eval`` and ``suite`` take the file as their --profile.
    """
    from rlkv.calibration import Sizes, calibrate, profile_toml
    from rlkv.cli.progress import progress_bars
    from rlkv.engine_setup import load
    from rlkv.provenance import device_name
    from rlkv.report.calibration_picture import calibration_png
    from rlkv_engine.errors import InputError
    from rlkv_envs.traces.whole_file import write_files

    sizes = Sizes(block_size, device_blocks, host_blocks, max_num_seqs, max_num_batched_tokens)
    if rounds < 1:
        raise InputError(f"--rounds must be at least 1, got {rounds}")
    check_writable(out)
    loaded = load(model, device, dtype, threads)
    with progress_bars() as on_progress:
        calibration = calibrate(
            loaded, sizes, rounds=rounds, seed=seed, folder=out, on_progress=on_progress
        )
    record = calibration_record(calibration) | {"device": device_name(loaded.model.device)}
    write_files(
        out,
        {
            "profile.toml": profile_toml(calibration.profile).encode(),
            "fit.png": calibration_png(calibration),
            "calibration.json": (json.dumps(record, indent=2) + "\n").encode(),
        },
    )
    if as_json:
        typer.echo(json.dumps(record))
        return
    _print(calibration, out)


def calibration_record(calibration: Calibration) -> dict[str, Any]:
    """What was found as JSON values."""
    from rlkv.calibration import profile_values
    from rlkv.provenance import command, commit, machine

    profile, fit = calibration.profile, calibration.iteration_fit
    return {
        "profile": profile_values(profile),
        "num_iterations": len(calibration.iterations),
        "num_copies": len(calibration.copies),
        "iteration_error_ratio": fit.error_ratio,
        "total_ratio": fit.total_ratio,
        "commit": commit(),
        "command": command(),
        "machine": machine(),
    }


def _print(calibration: Calibration, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    profile, fit = calibration.profile, calibration.iteration_fit
    rows = (
        ("an iteration", f"{1e3 * profile.iteration_s:.3f} ms"),
        ("one with a prefill, more", f"{1e3 * profile.prefill_iteration_s:.3f} ms"),
        ("one after an idle one, more", f"{1e3 * profile.wake_s:.3f} ms"),
        ("one that copies, more", f"{1e3 * profile.copy_iteration_s:.3f} ms"),
        ("for each block it copies", f"{1e6 * profile.copy_block_s:.2f} us"),
        ("one that only copies", f"{1e3 * profile.copy_only_iteration_s:.3f} ms"),
        ("a prefill token", f"{1e6 * profile.prefill_token_s:.2f} us"),
        ("for each token before it", f"{1e9 * profile.prefill_token_context_s:.3f} ns"),
        ("a decoding session", f"{1e6 * profile.decode_session_s:.2f} us"),
        ("a KV token it reads", f"{1e9 * profile.kv_token_s:.2f} ns"),
        ("to the host", f"{profile.swap_out_bytes_per_s / 1e9:.2f} GB/s"),
        ("to the device", f"{profile.swap_in_bytes_per_s / 1e9:.2f} GB/s"),
        ("a copy's start", f"{1e6 * profile.swap_latency_s:.1f} us"),
    )
    table = Table(title=f"{profile.name}, {profile.kv_bytes_per_token:,} B of KV a token")
    table.add_column("cost")
    table.add_column("measured", justify="right")
    for row in rows:
        table.add_row(*row)
    table.caption = (
        f"{len(calibration.iterations)} iterations: mean error {fit.error_ratio:.1%} of one,"
        f" all together predicted at {fit.total_ratio:.3f} of their time"
    )
    console = Console()
    console.print(table)
    console.print(f"{out / 'profile.toml'} and {out / 'fit.png'}", soft_wrap=True)
