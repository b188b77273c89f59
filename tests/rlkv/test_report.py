from __future__ import annotations

import re
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from rlkv.report.findings import overall, times, verdict
from rlkv.report.palette import spread
from rlkv.report.record import check_record, read_record
from rlkv.report.write import write_report
from rlkv.tables import policies_table
from rlkv_engine.errors import InputError
from tests.rlkv.command_line import printed

MEAN_S = {"lru": 0.09, "lazy-swap": 0.04, "net": 0.035, "clairvoyant": 0.03, "a<b>": 0.05}


def distribution(mean: float) -> dict[str, float]:
    return {"mean": mean, "p50": 0.8 * mean, "p90": 1.7 * mean, "p99": 3.0 * mean}


def make_record(scenario: str = "crossover-slow", **more: Any) -> dict[str, Any]:
    policies = {
        name: {
            "normalized_latency_s": distribution(mean) | {"ci95": [0.9 * mean, 1.1 * mean]},
            "resume_latency_s": distribution(3 * mean),
            "resume_latency_by_gap_s": {
                gap: distribution(k * mean) for k, gap in enumerate(("< 0.1 s", "0.1-1 s"), 1)
            },
            "recompute_ratio": 0.25,
            "waste": 0.1,
            "num_decisions": 12345,
            "sees_future": name == "clairvoyant",
            "ratio_to_best_rule": {"ratio": mean / 0.04, "ci95": [mean / 0.042, mean / 0.038]},
        }
        for name, mean in MEAN_S.items()
    }
    verbs = [[0, 1, 2], [1, 1, 2]]
    drawn = {"remaining_s": [0.1, 1.0, 10.0], "context_ratio": [0.01, 0.02], "verb": verbs}
    shares = {"running": 0.4, "paused": 0.3, "reclaimable": 0.1, "pending": 0.0, "free": 0.2}
    timeline = {"t_s": [0.0, 1.0, 2.0], "host": [0.1, 0.2, 0.3]} | {
        name: [share] * 3 for name, share in shares.items()
    }
    return {
        "version": 1, "scenario": scenario, "profile": "gptj", "rate_per_s": 2.5,
        "num_sessions": 100, "split": "test", "seeds": [0, 1, 2, 5], "policies": policies,
        "learned": "net", "best_rule": "lazy-swap", "command": "rlkv train --out <folder>",
        "learning_curve": [
            {"steps": k, "validation_s": 0.05 - 0.00001 * k, "cpu_s": 1.0 * k, "chosen": k == 1000}
            for k in (0, 500, 1000)
        ],
        "validation_rules_s": {name: mean for name, mean in MEAN_S.items() if name != "net"},
        "load_sweep": {
            "rates_per_s": [1.0, 2.0], "limit_s": 0.06, "empty_s": {"lru": 0.03},
            "policies": {name: [mean, 3 * mean] for name, mean in MEAN_S.items()},
            "sustainable_rate_per_s": {"net": 1.36, "lazy-swap": None},
            "sustainable_side": {"net": "within", "lazy-swap": "below"},
        },
        "decision_maps": {"NEW": {"net": drawn, "lazy-swap": drawn}, "RESUME": {"net": None}},
        "timeline": {"net": timeline, "lazy-swap": timeline},
        **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    record = make_record(also=[make_record("coding"), make_record("coding", learned=None)])
    return write_report(record, tmp_path_factory.mktemp("runs") / "new" / "run").parent


def test_the_page_stands_alone_and_names_every_policy(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert not re.search(r"https?://", page)
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]{1,30})""", page)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<link" not in page and "<script" not in page and "@import" not in page
    for name in ("lru", "lazy-swap", "net", "clairvoyant", "a&lt;b&gt;"):
        assert name in page
    assert "<b>" not in page and "--out &lt;folder&gt;" in page
    assert "0.88x" in page and "prefers-color-scheme: dark" in page


def test_every_picture_is_written(written: Path) -> None:
    names = {path.name for path in written.glob("*.png")}
    shown = ("policies", "load", "learning_curve", "decision_map", "memory_timeline", "gaps")
    endings = ("", "-coding", "-coding~2")
    assert names == {f"{name}{end}.png" for name in shown for end in endings} | {"regret.png"}
    for name in names:
        png = (written / name).read_bytes()
        assert png.startswith(b"\x89PNG") and len(png) > 10_000, name


def test_a_record_written_is_read_back(written: Path) -> None:
    assert read_record(written) == read_record(written / "record.json")
    assert read_record(written)["scenario"] == "crossover-slow"


def test_a_bare_record_makes_a_report(tmp_path: Path) -> None:
    bare = {"normalized_latency_s": distribution(0.04)}
    record = {"version": 1, "scenario": "x", "policies": {"lru": bare}}
    write_report(record, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "record.json", "report.html", "policies.png"
    }  # fmt: skip


def test_pictures_of_an_earlier_run_go_and_those_of_others_stay(tmp_path: Path) -> None:
    write_report(make_record(also=[make_record("coding")]), tmp_path)
    ours = (tmp_path / "load.png").read_bytes()
    foreign = b"\x89PNG of somebody else"
    for name, content in (
        ("load.png", foreign),  # of a name that is ours, made by another program
        ("my-load.png", ours),  # a copy that somebody made
        ("policies-before.png", ours),
        ("notes.txt", b"text"),
    ):
        (tmp_path / name).write_bytes(content)
    bare = {"normalized_latency_s": distribution(0.04)}
    write_report({"version": 1, "scenario": "x", "policies": {"lru": bare}}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "record.json", "report.html", "policies.png",
        "load.png", "my-load.png", "policies-before.png", "notes.txt",
    }  # fmt: skip
    assert (tmp_path / "load.png").read_bytes() == foreign


def test_what_is_not_finite_is_not_known(tmp_path: Path) -> None:
    record = make_record()
    record["load_sweep"]["policies"]["lru"] = [0.1, float("nan")]
    write_report(record, tmp_path)
    stored = read_record(tmp_path)
    assert stored["load_sweep"] and stored["load_sweep"]["policies"]["lru"] == [0.1, None]


def test_a_folder_that_cannot_be_written_keeps_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write") as caught:
        write_report(make_record(), tmp_path / "file")
    assert "\n" not in str(caught.value)
    run = tmp_path / "run"
    run.mkdir()
    (run / "record.json").write_text("earlier")
    (run / "report.html").mkdir()  # a folder is in the way of the page
    with pytest.raises(InputError, match="cannot write"):
        write_report(make_record(), run)
    assert (run / "record.json").read_text() == "earlier"
    assert {path.name for path in run.iterdir()} == {"record.json", "report.html"}


def change(record: dict[str, Any], path: str, value: object) -> None:
    *places, last = path.split("/")
    for place in places:
        record = record[place]
    if value is None:
        del record[last]
    else:
        record[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("scenario", None, "missing required field `scenario`"),
        ("version", 2, "version: 2 is newer than 1"),
        ("version", "1", "version: must be an integer"),
        ("policies", {}, "policies: holds no policy"),
        ("policies/lru/normalized_latency_s", None, "policies.lru: .*`normalized_latency_s`"),
        ("policies/lru/normalized_latency_s/mean", "x", "policies.lru.normalized_latency_s.mean:"),
        ("rate_per_s", "fast", "rate_per_s: Expected `float`, got `str`"),
        ("load_sweep/policies/lru", [1.0], "load_sweep.policies.lru: 1 latencies for 2 rates"),
        ("decision_maps/NEW/net/verb", [[7, 0, 0], [0, 0, 0]], "decision_maps.NEW.net.verb"),
        ("timeline/net/host", [0.1], "timeline.net: series of unequal length"),
        ("also", [3], r"also\[0\]: must be an object"),
    ],
)
def test_bad_records_are_refused_with_file_and_field(
    path: str, value: object, message: str
) -> None:
    record = deepcopy(make_record())
    change(record, path, value)
    with pytest.raises(InputError, match=message) as caught:
        check_record(record, "runs/1/record.json")
    assert str(caught.value).startswith("runs/1/record.json: ")


def test_files_that_are_no_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"record\.json: cannot read"):
        read_record(tmp_path)
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        read_record(tmp_path)
    (tmp_path / "record.json").write_text("[]")
    with pytest.raises(InputError, match="must be an object"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("ratio", "interval", "said"),
    [
        (0.86, [0.84, 0.88], "net is 0.86x [0.84, 0.88] of the best rule (lazy-swap)"),
        (1.02, [0.97, 1.06], "net is not better than the best rule (lazy-swap): 1.02x"),
        (0.98, [0.95, 1.01], "net is not better than the best rule (lazy-swap): 0.98x"),
        (1.2, [1.1, 1.3], "net is worse than the best rule (lazy-swap): 1.20x [1.10, 1.30]"),
        (0.9, [0.9, 0.9], "net is 0.90x of the best rule (lazy-swap), without an interval"),
    ],
)
def test_the_verdict_says_what_the_interval_says(
    ratio: float, interval: list[float], said: str
) -> None:
    record = make_record()
    record["policies"]["net"]["ratio_to_best_rule"] = {"ratio": ratio, "ci95": interval}
    assert verdict(check_record(record, "")).startswith(said)


def test_no_scenario_weighs_more_than_another() -> None:
    worse = make_record("b")
    worse["policies"]["net"]["ratio_to_best_rule"] = {"ratio": 1.2, "ci95": [1.1, 1.3]}
    said = overall(check_record(make_record(also=[worse]), ""))
    assert said.endswith("of 2 scenarios, the learned policy is better on 1, worse on 1 and"
                         " neither on 0")  # fmt: skip


def test_numbers_keep_the_side_of_one() -> None:
    assert times({"ratio": 0.991, "ci95": (0.985, 0.997)}) == "0.991x [0.985, 0.997]"
    assert times({"ratio": 0.5}) == "0.50x"


def test_labels_are_moved_apart() -> None:
    places = spread([0.5, 0.5, 0.51, 0.9], 0.05)
    assert all(b - a > 0.0499 for a, b in pairwise(places))
    assert spread([], 0.1) == []


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_table_fits_and_holds_every_policy(width: int) -> None:
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as capture:
        console.print(policies_table(make_record(), width))
    lines = capture.get().splitlines()
    names = ("net *", "lazy-swap +", "a<b>", "lru", "sees the future", "clairvoyant")
    order = [
        next(i for i, line in enumerate(lines) if line.strip().startswith(name)) for name in names
    ]
    assert order == sorted(order)
    assert "0.88x [0.83, 0.92]" in capture.get() and "…" not in capture.get()
    assert ("waste" in capture.get()) == (width == 200)


@pytest.mark.parametrize("width", range(72, 141, 4))
def test_no_cell_of_the_terminal_table_is_cut(width: int) -> None:
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as capture:
        console.print(policies_table(make_record(), width))
    assert "…" not in capture.get()
    assert max(map(len, capture.get().splitlines())) <= width


@pytest.mark.pictures
def test_the_command_draws_again_and_compares(written: Path, tmp_path: Path) -> None:
    said = printed("report", str(written), "--out", str(tmp_path / "again"))
    assert said.strip().endswith("report.html")
    assert (tmp_path / "again" / "report.html").read_bytes() == (
        written / "report.html"
    ).read_bytes()
    said = printed("report", "--compare", str(written), str(tmp_path / "again" / "record.json"))
    assert said.count("coding") == 4 and "again" in said and "0.88x [0.83, 0.92]" in said
    with pytest.raises(InputError, match="--compare takes several"):
        printed("report", str(written), str(written))


def reference(earlier: bool, commit: str = "abc123", factor: float = 1.1) -> dict[str, Any]:
    curve = [
        {"steps": k, "validation_s": 0.05 * factor ** (k > 0), "cpu_s": 0.5 * k} for k in range(9)
    ]
    return {"curve": curve, "earlier": earlier, "commit": commit, "machine": "2 cores"}


def texts_of(record: dict[str, Any]) -> list[str]:
    from rlkv.report.learning import draw_learning_curve

    figure = draw_learning_curve(check_record(record, "record.json"))
    assert figure is not None
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("clip", "net is chosen at 1,000 steps with"),
        ("order", "net is the rule with an order of victims"),
        ("bundle", "net is the policy of the bundle that training started with"),
    ],
)
def test_what_was_saved_is_said(form: str, said: str) -> None:
    from rlkv.report.findings import about_learning

    record = make_record()
    record["learning_curve"][-1]["form"] = form
    assert about_learning(check_record(record, "record.json")).startswith(said)


def test_other_recipes_stand_beside_the_curve_and_say_where_they_come_from() -> None:
    others = {"ppo": reference(True), "es": reference(False, "fff999")}
    said = texts_of(make_record(reference_curves=others))
    assert {"ppo", "es", "net", "lazy-swap"} <= set(said)
    notes = "\n".join(said)
    assert "ppo: not trained in this run, measured earlier, at commit abc123" in notes
    assert "es: trained in this run" in notes and "fff999" not in notes
    assert "chosen: 0.80x, 40.0 ms/token" in notes
    both = "\n".join(
        texts_of(make_record(reference_curves={"ppo": others["ppo"], "es": reference(True)}))
    )
    assert "ppo, es: not trained in this run" in both
    assert not {"ppo", "es"} & set(texts_of(make_record()))


def test_a_reference_is_drawn_for_as_long_as_the_run_took() -> None:
    from rlkv.report.learning import _within

    record = check_record(make_record(reference_curves={"ppo": reference(True)}), "record.json")
    x, y = _within(record, "ppo", 1.2)
    assert x == [0.0, 0.5, 1.0, 1.5] and y == pytest.approx([1.0, 1.1, 1.1, 1.1])
    # One that never got anywhere neither stretches the axis nor vanishes.
    wild = {"ppo": reference(True, factor=40.0), "es": {"curve": [], "reason": "no decisions"}}
    said = texts_of(make_record(reference_curves=wild))
    assert "ppo" in said and "es" not in said


def test_a_curve_without_times_is_drawn_against_steps() -> None:
    record = make_record(reference_curves={"ppo": reference(True)})
    for point in record["learning_curve"]:
        del point["cpu_s"]
    assert "ppo" not in texts_of(record)
