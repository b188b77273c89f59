"""Where results cannot be written is said before the work, not after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rlkv.command_line import assert_refused, contents, run


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["validate", "--out", "{file}"], "file: cannot write there: "),
        (["validate", "--out", "{file}/deeper"], "deeper: cannot write there: "),
        (["bench", "sim", "--out", "{file}/sim.json"], "file: cannot write there: "),
        (["bench", "sim", "--out", "{folder}"], "cannot write there: it is a folder"),
        (["bench", "all", "--out", "{file}"], "file: cannot write there: "),
        (["tune", "--rule", "lru", "--out", "{folder}"], "cannot write there: it is a folder"),
        (["tune", "--rule", "lru", "--out", "{file}/a.json"], "file: cannot write there: "),
        (["train", "--out", "{file}"], "file: cannot write there: "),
        (["eval", "--out", "{file}/run"], "run: cannot write there: "),
    ],
)
def test_a_place_that_cannot_be_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    place: str,
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError("work was done first")

    for work in (
        "rlkv.validation.validate",
        "rlkv.bench.run_bench",
        "rlkv_agents.train.tune_all",
        "rlkv_agents.train.train",
    ):
        monkeypatch.setattr(work, fail)
    (tmp_path / "file").write_text("here first")
    given = [part.format(file=tmp_path / "file", folder=tmp_path) for part in arguments]
    assert_refused(run(capsys, *given), place)
    assert contents(tmp_path) == {"file": b"here first"}
