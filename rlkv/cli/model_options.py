"""Options that say which model runs where, shared by the commands of the real engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rlkv_engine.errors import InputError

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel

Model = Annotated[
    str,
    typer.Argument(
        help="tiny (made in memory, no download), a folder in Hugging Face's format, or a .gguf."
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu or cuda; without it cuda where there is one.")
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="float32, bfloat16 or float16; without it what suits the device."),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", help="Threads of a CPU; without it one for each core, for tiny one."),
]


def model_of(name: str, device: str | None, dtype: str | None, threads: int | None) -> LoadedModel:
    """The model that a command line asks for, ready to run.

    Raises:
        InputError: it cannot be loaded, or there is no such device.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise InputError("the engine needs PyTorch: pip install 'rlkv[engine]'") from error
    from rlkv_engine.paged.attention import default_attention
    from rlkv_engine.paged.loading import TINY, load_model

    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype is not None and dtype not in kinds:
        raise InputError(f"--dtype must be one of {', '.join(kinds)}, got {dtype!r}")
    on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        raise InputError(f"--device {device}: there is no CUDA device")
    if device is not None and not on_gpu and device != "cpu":
        raise InputError(f"--device must be cpu or cuda, got {device!r}")
    if threads is not None and threads < 1:
        raise InputError(f"--threads must be at least 1, got {threads}")
    if threads is not None or name == TINY:
        # So little work is done sooner by one thread.
        torch.set_num_threads(threads or 1)
    chosen = kinds[dtype or ("bfloat16" if on_gpu else "float32")]
    place = torch.device(device or ("cuda" if on_gpu else "cpu"))
    return load_model(name, dtype=chosen, device=place, attention=default_attention(place))
