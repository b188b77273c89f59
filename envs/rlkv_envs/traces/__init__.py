"""Trace readers: one file a format, all told apart by their content."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.traces import (
    agentic_mooncake,
    azure_csv,
    infercept_csv,
    mooncake,
    rlkv_jsonl,
    servegen_csv,
    tracelab,
    weka_csv,
    weka_json,
)
from rlkv_envs.traces.lines import read_head
from rlkv_envs.traces.rlkv_jsonl import write_trace as write_trace


@dataclass(frozen=True, slots=True)
class Format:
    """A file format; ``read`` is None where the files hold arrival windows but no sessions."""

    description: str
    read: Callable[[Path | str], Trace] | None


FORMATS: Final[dict[str, Format]] = {
    "rlkv": Format("own JSONL, one turn a line", rlkv_jsonl.read),
    "weka": Format("WEKA coding-agent JSON, a file or a folder", weka_json.read),
    "weka-csv": Format("table of WEKA coding-agent requests", weka_csv.read),
    "tracelab": Format("TraceLab round trace, JSONL", tracelab.read),
    "mooncake": Format("Mooncake JSONL; sessions are inferred", mooncake.read),
    "agentic-mooncake": Format("Dynamo agentic Mooncake JSONL", agentic_mooncake.read),
    "infercept": Format("table of six augmentations in numbers", infercept_csv.read),
    "azure": Format("Azure LLM requests; sessions of one turn", azure_csv.read),
    "servegen": Format("ServeGen arrival windows; no sessions", None),
}

_JSON_KEYS: Final[tuple[tuple[str, frozenset[str]], ...]] = (
    ("rlkv", frozenset({"rlkv_trace"})),
    ("rlkv", frozenset({"session_id", "turn", "input_tokens"})),
    ("weka", frozenset({"block_size", "hash_id_scope", "requests"})),
    ("tracelab", frozenset({"session_id", "round_index"})),
    ("agentic-mooncake", frozenset({"request_id", "input_length"})),
    ("mooncake", frozenset({"timestamp", "input_length", "hash_ids"})),
)
_CSV_COLUMNS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("weka-csv", weka_csv.COLUMNS),
    ("infercept", infercept_csv.COLUMNS),
    ("azure", azure_csv.COLUMNS),
)


def detect(path: Path | str) -> str:
    """The name of a file's format, read off its first bytes; gzip is seen through.

    Raises:
        InputError: the file cannot be read or looks like none of the formats.
    """
    path = Path(path)
    if path.is_dir():
        return "weka"
    head = read_head(path).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        raise InputError("the file is empty", path=path)
    first_line = head.split(b"\n", 1)[0].rstrip(b"\r")
    if head.startswith(b"{"):
        # A pretty-printed document has its keys on later lines.
        for text in (first_line, head):
            keys = {key.decode() for key in re.findall(rb'"([A-Za-z_]{1,40})"\s*:', text)}
            for name, needed in _JSON_KEYS:
                if needed <= keys:
                    return name
    cells = [cell.strip().strip(b'"').decode("utf-8", "replace") for cell in first_line.split(b",")]
    for name, columns in _CSV_COLUMNS:
        if len(set(columns) & set(cells)) * 2 > len(columns):
            return name  # the reader says which column is missing
    if len(cells) == 6 and cells[3] in ("", *servegen_csv.FAMILIES) and _is_number(cells[0]):
        return "servegen"
    raise InputError(f"not a known trace format (known: {', '.join(FORMATS)})", path=path)


def read_trace(path: Path | str, format: str | None = None) -> Trace:
    """Reads a trace of any format.

    Args:
        path: a file, or a folder of WEKA documents.
        format: one of ``FORMATS``; None detects it.

    Raises:
        InputError: with the file, the line where there is one, and the reason.
    """
    name = detect(path) if format is None else format
    if name not in FORMATS:
        raise InputError(f"unknown format {name!r}: one of {', '.join(FORMATS)}")
    reader = FORMATS[name].read
    if reader is None:
        reason = f"{name} files hold arrival windows, no sessions"
        raise InputError(f"{reason}: use them as an arrival process", path=path)
    return reader(path)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
