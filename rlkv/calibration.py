"""A profile of a model on this machine, measured: what `rlkv calibrate` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from rlkv_engine.errors import InputError
from rlkv_engine.paged.arena import kv_shape
from rlkv_engine.paged.cost_fit import COSTS, CopyFit, IterationFit, fit_copies, fit_iterations
from rlkv_engine.paged.measuring import (
    CopySample,
    IterationSample,
    Load,
    loads,
    measure_copies,
    measure_iterations,
)
from rlkv_engine.profile import Profile

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel

#: ``on_progress(stage, done, total)``.
OnProgress = Callable[[str, int, int], None]
_MEASURED = "measured.jsonl"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Pools and budgets of the engine that is measured; they become the profile's."""

    block_size: int = 16
    num_device_blocks: int = 512
    num_host_blocks: int = 1024
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 256


@dataclass(frozen=True, slots=True)
class Calibration:
    """A measured profile, and how well it tells what was measured."""

    profile: Profile
    iterations: list[IterationSample]
    copies: list[CopySample]
    iteration_fit: IterationFit
    copy_fit: CopyFit


class _Measured(msgspec.Struct):
    """One line of the file of measurements: what one load, or the copies, gave."""

    what: str
    iterations: list[IterationSample] = []
    copies: list[CopySample] = []


def calibrate(
    loaded: LoadedModel,
    sizes: Sizes,
    *,
    rounds: int = 3,
    num_loads: int | None = None,
    seed: int = 0,
    folder: Path | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> Calibration:
    """Measures iterations and copies on the engine, and fits a profile to them.

    Args:
        loaded: the model.
        sizes: pools and budgets.
        rounds: times that every load is measured; the first also warms up and is not counted.
        num_loads: so many of the loads, drawn at random; without it all of them.
        seed: of the loads and prompts.
        folder: keeps what was measured; a second call goes on from there. None keeps nothing.
        on_progress: is told after each load.

    Raises:
        InputError: the folder holds measurements of something else, or there is no memory.
    """
    profile = provisional_profile(loaded, sizes)
    designed = loads(
        loaded.config.max_position_embeddings, sizes.max_num_seqs, profile.device_tokens, seed
    )[:num_loads]  # in random order
    setup = f"{loaded.name} {loaded.model.dtype} {loaded.model.device} {sizes} seed {seed}"
    setup += f" {len(designed)} loads"
    known = _read(folder, setup)
    total = (rounds + 1) * len(designed) + 1
    iterations: list[IterationSample] = []
    copies: list[CopySample] = []
    for done, (what, measure) in enumerate(_stages(loaded, profile, designed, rounds, seed)):
        if what not in known:
            known[what] = measure()
            _keep(folder, setup, known[what])
        if not what.startswith("round 0 "):
            iterations += known[what].iterations
        copies += known[what].copies
        on_progress("calibrate", done + 1, total)
    iteration_fit = fit_iterations(iterations)
    copy_fit = fit_copies(copies, profile.block_bytes)
    return Calibration(
        _fitted(profile, iteration_fit, copy_fit, len(copies)),
        iterations,
        copies,
        iteration_fit,
        copy_fit,
    )


def _stages(
    loaded: LoadedModel, profile: Profile, designed: list[Load], rounds: int, seed: int
) -> Iterator[tuple[str, Callable[[], _Measured]]]:
    for round_index in range(rounds + 1):
        for index, load in enumerate(designed):
            what = f"round {round_index} load {index}"
            yield what, partial(_measured_load, what, loaded, profile, load, seed)
    yield "copies", partial(_measured_copies, loaded, profile, rounds, seed)


def _measured_load(
    what: str, loaded: LoadedModel, profile: Profile, load: Load, seed: int
) -> _Measured:
    return _Measured(what, measure_iterations(loaded, profile, load, seed))


def _measured_copies(loaded: LoadedModel, profile: Profile, rounds: int, seed: int) -> _Measured:
    most = min(profile.num_device_blocks, profile.num_host_blocks)
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 128) if size <= most]
    if not sizes:
        return _Measured("copies")
    samples = measure_copies(loaded, profile, sizes, 5 * rounds, seed)
    return _Measured("copies", copies=list(samples))


def provisional_profile(loaded: LoadedModel, sizes: Sizes) -> Profile:
    """A profile before anything is measured: sizes are right, costs are only there."""
    is_gpu = loaded.model.device.type == "cuda"
    link_bytes_per_s = 4e10 if is_gpu else 4e9  # of it budgets of copies are made
    return Profile(
        name=f"{loaded.name}-{loaded.model.device.type}",
        description=f"{loaded.name} in {str(loaded.model.dtype).removeprefix('torch.')}, measured",
        block_size=sizes.block_size,
        kv_bytes_per_token=kv_shape(loaded.config, loaded.model.dtype).token_bytes,
        num_device_blocks=sizes.num_device_blocks,
        num_host_blocks=sizes.num_host_blocks,
        iteration_s=1e-3,
        prefill_token_s=1e-5,
        prefill_token_context_s=0.0,
        decode_session_s=0.0,
        kv_token_s=0.0,
        swap_out_bytes_per_s=link_bytes_per_s,
        swap_in_bytes_per_s=link_bytes_per_s,
        swap_latency_s=0.0,
        # On a CPU one thread copies both ways; a GPU has an engine for each.
        shared_link=not is_gpu,
        max_num_seqs=sizes.max_num_seqs,
        max_num_batched_tokens=sizes.max_num_batched_tokens,
    )


def _fitted(profile: Profile, fit: IterationFit, copy: CopyFit, num_copies: int) -> Profile:
    profile = with_costs(profile, fit)
    if num_copies == 0:
        return profile
    copied = f"measured: {num_copies} copies, alone"
    costs: dict[str, Any] = {
        "swap_out_bytes_per_s": _rounded(copy.out_bytes_per_s),
        "swap_in_bytes_per_s": _rounded(copy.in_bytes_per_s),
        "swap_latency_s": _rounded(copy.latency_s),
    }
    return replace(profile, **costs, sources={**profile.sources, **dict.fromkeys(costs, copied)})


def with_costs(profile: Profile, fit: IterationFit, slower: float = 1.0) -> Profile:
    """A profile with the costs of an iteration that were fitted, each ``slower`` times as high."""
    measured = f"measured: least squares on {len(fit.measured_s)} iterations of the engine"
    costs: dict[str, Any] = {
        name: _rounded(slower * cost) for name, cost in zip(COSTS, fit.costs.tolist(), strict=True)
    }
    sources = {**profile.sources, **dict.fromkeys(costs, measured)}
    return replace(profile, **costs, sources=sources)


def _rounded(value: float) -> float:
    return float(np.format_float_positional(value, 5, fractional=False))


def profile_values(profile: Profile) -> dict[str, Any]:
    """The fields of a profile but for the sources, as JSON values."""
    return {
        field.name: getattr(profile, field.name)
        for field in fields(profile)
        if field.name != "sources"
    }


def profile_toml(profile: Profile) -> str:
    """A profile as the text that ``load_profile`` reads."""
    lines = []
    for name, value in profile_values(profile).items():
        text = str(value).lower() if isinstance(value, bool) else repr(value)
        lines.append(f"{name} = {_quoted(value) if isinstance(value, str) else text}")
    lines += ["", "[sources]"]
    lines += [f"{name} = {_quoted(source)}" for name, source in profile.sources.items()]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _read(folder: Path | None, setup: str) -> dict[str, _Measured]:
    path = None if folder is None else folder / _MEASURED
    if path is None or not path.exists():
        return {}
    first, *lines = path.read_bytes().split(b"\n")
    try:
        is_same = msgspec.json.decode(first, type=str) == setup
        # Behind the last line break is what was being written when it was interrupted.
        known = [msgspec.json.decode(line, type=_Measured) for line in lines[:-1]]
    except msgspec.MsgspecError as error:
        raise InputError(f"holds no measurements: {error}", path=path) from error
    if not is_same:
        raise InputError("holds measurements of another model or other sizes", path=path)
    path.write_bytes(b"\n".join([first, *lines[:-1], b""]))
    return {measured.what: measured for measured in known}


def _keep(folder: Path | None, setup: str, measured: _Measured) -> None:
    if folder is None:
        return
    path = folder / _MEASURED
    if not path.exists():
        path.write_bytes(msgspec.json.encode(setup) + b"\n")
    with path.open("ab") as file:
        file.write(msgspec.json.encode(measured) + b"\n")
