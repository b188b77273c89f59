"""Reading and checking ``record.json``, what every run leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from rlkv.report.schema import PolicyFigures, Record
from rlkv_engine.errors import InputError

#: The schema that this code writes, and the newest it reads.
VERSION = 1
FILE_NAME = "record.json"


def check_record(data: object, path: Path | str) -> Record:
    """The same data as a ``Record``, once every field that is read has been checked.

    Raises:
        InputError: not a record, written by a newer rlkv, or a field that is missing or of the
            wrong type; the message names the file and the field.
    """
    _check_one(data, path, "")
    return cast(Record, data)


def read_record(path: Path | str) -> Record:
    """The record of a run's folder, or of the file itself.

    Raises:
        InputError: no such file, not JSON, or not a record.
    """
    file = record_path(path)
    try:
        data = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror or error}", path=file) from error
    except ValueError as error:
        raise InputError(f"not JSON: {error}", path=file) from error
    return check_record(data, file)


def record_path(path: Path | str) -> Path:
    """``record.json`` of a folder; anything else is taken for the record itself."""
    return Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)


def _check_one(data: object, path: Path | str, place: str) -> None:
    if not isinstance(data, dict):
        raise InputError(f"{place.rstrip('.') or 'record'}: must be an object", path=path)
    version = data.get("version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise InputError(f"{place}version: must be an integer, got {version!r}", path=path)
    if version > VERSION:
        raise InputError(
            f"{place}version: {version} is newer than {VERSION}, the newest that this rlkv reads",
            path=path,
        )
    for where, part, kind in _parts(data, place):
        try:
            msgspec.convert(part, kind)
        except msgspec.ValidationError as error:
            raise InputError(_reason(where, str(error)), path=path) from error
    if not data["policies"]:
        raise InputError(f"{place}policies: holds no policy", path=path)
    _check_lengths(cast(Record, data), path, place)
    for i, other in enumerate(data.get("also", [])):
        _check_one(other, path, f"{place}also[{i}].")


def _parts(data: Mapping[str, Any], place: str) -> Iterator[tuple[str, object, Any]]:
    # Policies one by one, so that a message says which of them.
    policies = data.get("policies")
    if isinstance(policies, dict):
        for name, figures in policies.items():
            yield f"{place}policies.{name}.", figures, PolicyFigures
    yield place, data, Record


def _reason(place: str, message: str) -> str:
    # msgspec: "Expected `float`, got `str` - at `$.x.y`".
    what, _, at = message.partition(" - at ")
    field = place + at.strip("`").removeprefix("$").removeprefix(".")
    return f"{field.strip('.') or 'record'}: {what}"


def _check_lengths(record: Record, path: Path | str, place: str) -> None:
    sweep = record.get("load_sweep")
    if sweep:
        for name, curve in sweep["policies"].items():
            if len(curve) != len(sweep["rates_per_s"]):
                raise InputError(
                    f"{place}load_sweep.policies.{name}: {len(curve)} latencies for"
                    f" {len(sweep['rates_per_s'])} rates",
                    path=path,
                )
    for point, maps in record.get("decision_maps", {}).items():
        for name, drawn in maps.items():
            rows = {len(row) for row in drawn["verb"]} if drawn else set()
            if drawn and (
                len(drawn["verb"]) != len(drawn["context_ratio"])
                or rows != {len(drawn["remaining_s"])}
                or not {verb for row in drawn["verb"] for verb in row} <= {0, 1, 2}
            ):
                raise InputError(
                    f"{place}decision_maps.{point}.{name}.verb: must be a row of"
                    f" {len(drawn['remaining_s'])} verbs (0, 1 or 2) for each of"
                    f" {len(drawn['context_ratio'])} contexts",
                    path=path,
                )
    for name, timeline in record.get("timeline", {}).items():
        lengths = {len(series) for series in cast(dict[str, list[float]], timeline).values()}
        if len(lengths) > 1:
            raise InputError(f"{place}timeline.{name}: series of unequal length", path=path)
