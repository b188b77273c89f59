"""Writes a run's record, page and pictures, each whole or not at all."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlkv.report.html import render_html
from rlkv.report.palette import is_own_png
from rlkv.report.pictures import PICTURES, REGRET, draw_pictures, draw_regret_picture
from rlkv.report.record import FILE_NAME, check_record, read_record
from rlkv.report.schema import Record, scenarios
from rlkv_engine.errors import InputError
from rlkv_envs.traces.whole_file import write_files

PAGE_NAME = "report.html"


def write_report(
    record: Record | dict[str, Any], folder: Path | str, beside: Mapping[str, bytes] | None = None
) -> Path:
    """Writes ``record.json``, ``report.html`` and the PNGs; the path of the page.

    Everything is drawn before anything is written, and nothing takes its place before all is
    written: whatever fails, the results of an earlier run stay. Pictures of an earlier run that
    this one does not have are removed.

    Args:
        record: of the run.
        folder: made if missing.
        beside: further files of the run, by name.

    Raises:
        InputError: the record is not one, or the folder cannot be written to.
    """
    folder = Path(folder)
    data = _finite(record)
    checked = check_record(data, folder / FILE_NAME)
    files = dict(beside or {})
    pictures = [draw_pictures(one) for one in scenarios(checked)]
    regret_png = draw_regret_picture(checked)
    for suffix, drawn in zip(_suffixes(checked), pictures, strict=True):
        files |= {f"{name}{suffix}.png": png for name, png in drawn.items()}
    if regret_png is not None:
        files[f"{REGRET}.png"] = regret_png
    files[PAGE_NAME] = render_html(checked, pictures, regret_png).encode()
    # The record last: whoever finds it finds all that belongs to it.
    files[FILE_NAME] = (json.dumps(data, indent=1) + "\n").encode()
    stale = _picture_names(folder) - set(files)
    write_files(folder, files)
    for name in stale:
        if is_own_png(folder / name):
            (folder / name).unlink()
    return folder / PAGE_NAME


def _picture_names(folder: Path) -> set[str]:
    # Every name that a picture of the record in the folder may have.
    try:
        record = read_record(folder)
    except InputError:
        return set()
    names = {f"{name}{suffix}.png" for name in PICTURES for suffix in _suffixes(record)}
    return names | {f"{REGRET}.png"}


def _suffixes(record: Record) -> list[str]:
    # Nothing for the first scenario, then the name of each, numbered where it comes again.
    suffixes = [""]
    for one in scenarios(record)[1:]:
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", one["scenario"]).strip("-.") or "scenario"
        again = sum(suffix.split("~")[0] == f"-{slug}" for suffix in suffixes)
        suffixes.append(f"-{slug}~{again + 1}" if again else f"-{slug}")
    return suffixes


def _finite(value: Any) -> Any:
    # JSON has no NaN and no infinity; a figure that is not finite is one that is not known.
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
