"""Options that say which model runs where, shared by the commands of the real engine."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        help="tiny or llama-1b-random (made in memory, no download), a folder in Hugging Face's"
        " format, or a .gguf."
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
