from __future__ import annotations

from pathlib import Path

import pytest

from rlkv_service.decision_api.tokens import TokenFile
from tests.rlkv.command_line import run


def test_a_token_is_printed_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    code, out, err = run(capsys, "token", "new", "me", "--file", path, "--requests-per-s", 5)
    assert (code, len(out.split())) == (0, 1)
    assert str(path) in err and out.strip() not in err
    found = TokenFile(path).find(out.strip())
    assert found is not None and (found.name, found.requests_per_s) == ("me", 5.0)


def test_names_and_rates_that_cannot_be(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    code, out, err = run(capsys, "token", "new", "a b", "--file", path)
    assert (code, out) == (2, "") and "'a b' is no name" in err
    code, out, err = run(capsys, "token", "new", "a", "--file", path, "--requests-per-s", "-1")
    assert (code, out) == (2, "") and "must be above 0" in err
    assert not path.exists()
