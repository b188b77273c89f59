"""Training that is interrupted and resumed gives what training in one go gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlkv_agents import train as train_module
from rlkv_agents.bundle import METADATA_FILE, WEIGHTS_FILE, save_bundle
from rlkv_agents.checkpoint import (
    CurvePoint,
    Progress,
    Tuned,
    load_checkpoint,
    save_checkpoint,
)
from rlkv_agents.es_learner import EvolutionLearner, EvolutionSettings
from rlkv_agents.forked_learner import ForkedLearner
from rlkv_agents.gae_learner import GaeLearner
from rlkv_agents.house_rule import House
from rlkv_agents.order_learning import FIRST_SEED
from rlkv_agents.policy import TENSORS
from rlkv_agents.rules import RULES
from rlkv_agents.train import ORDER_FORM, RECIPES, START_RULE, TrainConfig, TrainResult, train
from rlkv_agents.tune import validation_traces
from rlkv_engine.errors import InputError
from rlkv_envs.scenario import Scenario, closed_loop
from rlkv_envs.workloads.crossover import Crossover
from tests.agents.small_scenario import small_scenario

SCENARIO = small_scenario()


@pytest.fixture(autouse=True)
def tiny_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rules to tune, two traces to validate on, rounds of a fraction of a second."""
    monkeypatch.setattr(ForkedLearner, "traces_per_round", 2)
    monkeypatch.setattr(ForkedLearner, "forks_per_trace", 40)
    monkeypatch.setattr(GaeLearner, "num_envs", 4)
    monkeypatch.setattr(GaeLearner, "num_steps", 32)
    monkeypatch.setattr(GaeLearner, "rollouts_per_round", 2)
    monkeypatch.setattr(GaeLearner, "traces_per_round", 3)
    monkeypatch.setattr(EvolutionLearner, "settings", EvolutionSettings(num_pairs=2))
    monkeypatch.setattr(EvolutionLearner, "traces_per_round", 2)
    monkeypatch.setattr(train_module, "RULES", {name: RULES[name] for name in ("lru", START_RULE)})
    monkeypatch.setattr(RULES[START_RULE], "grid", {"guard_pauses": (0.0, 1.0)})
    monkeypatch.setattr(train_module, "validation_traces", lambda s: validation_traces(s, 2))


def run(folder: Path, rounds: int, recipe: str = "forked-ppo", seed: int = 0) -> TrainResult:
    return train(SCENARIO, TrainConfig(recipe, seed, rounds, 1), folder)


def resume(folder: Path, rounds: int, recipe: str = "forked-ppo", seed: int = 0) -> TrainResult:
    return train(SCENARIO, TrainConfig(recipe, seed, rounds, 1), folder, resume=True)


@pytest.mark.parametrize("recipe", RECIPES)
def test_long_runs_do_not_lose_count(tmp_path: Path, recipe: str) -> None:
    run(tmp_path, 2, recipe)
    progress, state, best = load_checkpoint(tmp_path, {})
    # The default recipe counts for both of its learners; so far only the first was at work.
    name = "decisions" if recipe == "es" else "steps"
    before = int(state[name].sum())
    of_order = max(p["steps"] for p in progress.curve if p.get("form") == ORDER_FORM)
    assert before == progress.curve[-1]["steps"] - of_order == state[name][0]
    for counter in (name, "clip/decisions"):
        if counter in state:
            state[counter] = state[counter].copy()
            state[counter][0] = 2**24 + 1
    save_checkpoint(tmp_path, progress, state, best)
    result = resume(tmp_path, 4, recipe)
    again = result.progress.curve[-1]["steps"] - of_order - (2**24 + 1)
    assert load_checkpoint(tmp_path, {})[1][name].sum() == again + 2**24 + 1
    whole = run(tmp_path / "whole", 4, recipe)
    assert again == whole.progress.curve[-1]["steps"] - of_order - before


def learner_bytes(folder: Path, rounds: int) -> tuple[bytes, bytes]:
    """Everything that learning goes on from, and the best actor so far."""
    return (
        (folder / f"{rounds}.state.safetensors").read_bytes(),
        (folder / f"{rounds}.best.safetensors").read_bytes(),
    )


def bundle_bytes(result: TrainResult, folder: Path) -> tuple[bytes, bytes]:
    save_bundle(folder, result.policy, {"trained_on": result.progress.settings})
    return (folder / WEIGHTS_FILE).read_bytes(), (folder / METADATA_FILE).read_bytes()


def curve_of(result: TrainResult) -> list[dict[str, object]]:
    return [{k: v for k, v in point.items() if k != "cpu_s"} for point in result.progress.curve]


@pytest.mark.parametrize("recipe", RECIPES)
def test_resumed_training_equals_training_in_one_go(tmp_path: Path, recipe: str) -> None:
    whole = run(tmp_path / "whole", 4, recipe)
    run(tmp_path / "parts", 2, recipe)
    parts = resume(tmp_path / "parts", 4, recipe)
    assert learner_bytes(tmp_path / "whole", 4) == learner_bytes(tmp_path / "parts", 4)
    assert curve_of(whole) == curve_of(parts)
    assert [point["steps"] for point in whole.progress.curve][1] > 0
    assert bundle_bytes(whole, tmp_path / "a") == bundle_bytes(parts, tmp_path / "b")


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_runs_with_one_seed_are_the_same_and_another_seed_is_not(
    tmp_path: Path, recipe: str
) -> None:
    one, again = (run(tmp_path / name, 1, recipe) for name in ("one", "again"))
    run(tmp_path / "other", 1, recipe, seed=1)
    assert learner_bytes(tmp_path / "one", 1) == learner_bytes(tmp_path / "again", 1)
    assert learner_bytes(tmp_path / "one", 1) != learner_bytes(tmp_path / "other", 1)
    assert bundle_bytes(one, tmp_path / "a") == bundle_bytes(again, tmp_path / "b")


def test_an_interrupted_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("train", 3):
            raise KeyboardInterrupt

    config = TrainConfig(num_rounds=4, order_rounds=1)
    with pytest.raises(KeyboardInterrupt):
        train(SCENARIO, config, tmp_path / "parts", on_progress=interrupt)
    assert json.loads((tmp_path / "parts" / "progress.json").read_bytes())["rounds_done"] == 2
    parts = resume(tmp_path / "parts", 4)
    whole = run(tmp_path / "whole", 4)
    assert learner_bytes(tmp_path / "whole", 4) == learner_bytes(tmp_path / "parts", 4)
    assert curve_of(whole) == curve_of(parts)


def test_resuming_a_finished_run_learns_nothing_more(tmp_path: Path) -> None:
    result = run(tmp_path, 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = resume(tmp_path, 2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert curve_of(result) == curve_of(again)


def test_tuning_is_not_repeated_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path, 2)

    def fail(*args: object) -> None:
        raise AssertionError("tuned again")

    monkeypatch.setattr(train_module, "tune_all", fail)
    second = resume(tmp_path, 4)
    assert second.progress.tuned == first.progress.tuned
    assert [p.rule for p in second.rules] == [p.rule for p in first.rules]


def test_training_never_looks_at_test_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    class Watched(Scenario):
        def trace(self, seed, split):  # type: ignore[no-untyped-def]
            drawn.append((split, seed))
            return Scenario.trace(self, seed, split)

    fields = {name: getattr(SCENARIO, name) for name in Scenario.__dataclass_fields__}
    for recipe in RECIPES:
        train(Watched(**fields), TrainConfig(recipe, 3, 2, 1), tmp_path / recipe)
    assert {split for split, _ in drawn} == {"train", "validation"}
    # No round meets a trace of another.
    seeds = [seed for split, seed in drawn if split == "train"]
    of_order = {seed for seed in seeds if seed >= FIRST_SEED}
    assert len(of_order) == 4
    assert len(set(seeds) - of_order) == max(2 * 2, 2 * 3) and min(seeds) == 4_000_000


def closed() -> Scenario:
    return closed_loop(SCENARIO, 4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "the checkpoint has seed 0, this run 1"),
        ({"recipe": "ppo"}, "the checkpoint has recipe 'forked-ppo', this run 'ppo'"),
        (lambda: small_scenario(rate_per_s=2.0), "rate_per_s 1.0, this run 2.0"),
        (lambda: small_scenario(num_sessions=31), "num_sessions 30, this run 31"),
        (lambda: small_scenario(workload="infercept"), "workload 'crossover', this run"),
        (lambda: replace(SCENARIO, name="other"), "scenario 'small', this run 'other'"),
        (
            lambda: replace(SCENARIO, profile=SCENARIO.profile.scaled(link=2.0)),
            r"profile 'small', this run 'small\+link2'",
        ),
        (closed, "this run 'small-closed4'"),
        (
            lambda: replace(SCENARIO, profile=replace(SCENARIO.profile, num_host_blocks=251)),
            "has profile_sha256 '",
        ),
        (
            lambda: replace(SCENARIO, workload=Crossover(max_context_tokens=300)),
            "has sessions_sha256 '",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, change: dict[str, object] | Callable[[], Scenario], named: str
) -> None:
    run(tmp_path, 1)
    scenario, options = (SCENARIO, change) if isinstance(change, dict) else (change(), {})
    config = replace(TrainConfig(num_rounds=2, order_rounds=1), **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=named) as caught:
        train(scenario, config, tmp_path, resume=True)
    assert str(tmp_path / "progress.json") in str(caught.value)


def test_there_may_be_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint to resume from") as caught:
        resume(tmp_path / "none", 2)
    assert "progress.json" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("progress.json", b""),
        ("progress.json", b"[]"),
        ("progress.json", b'{"settings": {}, "num_rounds": 2, "surprise": 0}'),
        ("progress.json", b'{"settings": 3, "num_rounds": 2}'),
        ("progress.json", b'{"settings": {"seed": 0}, "num_rounds": 2, "curve": [{"steps": 1}]}'),
        ("progress.json", b"\xff\xfe"),
        ("1.state.safetensors", b""),
        ("1.state.safetensors", b"\x08\0\0\0\0\0\0\0{}"),
        ("1.best.safetensors", b"not a safetensors file at all"),
        ("1.best.safetensors", None),
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    progress = Progress({"seed": 0}, 2, rounds_done=1)
    save_checkpoint(tmp_path, progress, {"x": np.ones(2, np.float32)}, {})
    load_checkpoint(tmp_path, {"seed": 0})
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: damaged checkpoint: ") as caught:
        load_checkpoint(tmp_path, {"seed": 0})
    assert "\n" not in str(caught.value)


def test_a_changed_bit_is_noticed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Progress({}, 2, 1), {"x": np.ones(2, np.float32)}, {})
    path = tmp_path / "1.state.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"1.state.safetensors: damaged checkpoint: SHA-256"):
        load_checkpoint(tmp_path, {})


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_checkpoint_of_another_network_is_named(tmp_path: Path, recipe: str) -> None:
    run(tmp_path, 2, recipe)
    progress, state, best = load_checkpoint(tmp_path, {})
    kept = {name: array for name, array in state.items() if not name.endswith("extremes")}
    bent = {name: array[:1] if array.ndim > 1 else array for name, array in state.items()}
    for tensors in (kept, bent):
        save_checkpoint(tmp_path, progress, tensors, best)
        with pytest.raises(InputError, match="made for another network") as caught:
            resume(tmp_path, 4, recipe)
        assert "\n" not in str(caught.value)


def test_a_checkpoint_of_other_rules_is_named(tmp_path: Path) -> None:
    run(tmp_path, 1)
    progress, state, best = load_checkpoint(tmp_path, {})
    del progress.tuned[START_RULE]
    save_checkpoint(tmp_path, progress, state, best)
    with pytest.raises(InputError, match=f"for other rules: {START_RULE}"):
        resume(tmp_path, 2)


def test_it_goes_on_to_the_rounds_it_was_asked_for(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            SCENARIO, TrainConfig(num_rounds=4, order_rounds=1), tmp_path, on_checkpoint=interrupt
        )
    result = train(SCENARIO, TrainConfig(), tmp_path, resume=True)
    assert (result.progress.rounds_done, result.progress.num_rounds) == (4, 4)
    with pytest.raises(InputError, match="the checkpoint has 4 rounds, this run asks for 2"):
        resume(tmp_path, 2)


@pytest.mark.parametrize(("split", "number"), [("validation", 15), ("train", 7)])
def test_a_session_too_large_for_the_machine_is_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, number: int
) -> None:
    wanted = number if split == "validation" else 1_000_000 + number

    class Bad(Scenario):
        def trace(self, seed, at):  # type: ignore[no-untyped-def]
            trace = Scenario.trace(self, seed, at)
            if (at, seed) == (split, wanted):
                trace.input_tokens[3] += 10**6
            return trace

    def fail(*args: object) -> None:
        raise AssertionError("tuned first")

    monkeypatch.setattr(train_module, "tune", fail)
    fields = {name: getattr(SCENARIO, name) for name in Scenario.__dataclass_fields__}
    # Two traces a round: the eighth belongs to the fourth of four rounds.
    with pytest.raises(InputError, match="tokens of KV, the device pool of small holds"):
        train(Bad(**fields), TrainConfig(num_rounds=4, order_rounds=1), tmp_path)


def test_an_unwritable_folder_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="checkpoint: cannot write: "):
        save_checkpoint(tmp_path / "file" / "checkpoint", Progress({}, 2), {}, {})


def test_a_checkpoint_holds_what_was_put_in(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # One more than float32 can count to.
    count = np.array([2**24 + 1])
    state = {"net.0": rng.random((3, 2)).astype(np.float32), "steps": count}
    best = {name: rng.random(2).astype(np.float32) for name in TENSORS}
    for rounds in (2, 4):
        point = CurvePoint(steps=3, cpu_s=1.5, validation_s=0.1, score=-0.1, chosen=True)
        tuned = Tuned(constants={}, validation_s=0.2, num_candidates=1)
        progress = Progress({"seed": 7}, 9, rounds, 1.5, [point], -0.1, 2, {"lru": tuned})
        save_checkpoint(tmp_path, progress, state, best)
    again, state_again, best_again = load_checkpoint(tmp_path, {"seed": 7})
    assert again == progress
    for saved, loaded in ((state, state_again), (best, best_again)):
        assert saved.keys() == loaded.keys()
        for name, array in saved.items():
            np.testing.assert_array_equal(array, loaded[name])
    # Only the newest is kept.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "4.best.safetensors", "4.state.safetensors", "progress.json",
    ]  # fmt: skip


def test_what_is_kept_is_never_worse_than_the_start(tmp_path: Path) -> None:
    result = run(tmp_path, 4)
    chosen = next(point for point in result.progress.curve if point["chosen"])
    assert chosen["score"] == min(point["score"] for point in result.progress.curve) <= 0.0
    assert (result.policy.weights is None) == (chosen.get("form", ORDER_FORM) == ORDER_FORM)
    ordered = result.ordered.rule
    assert isinstance(ordered, House)
    assert result.policy.rule in (ordered, ordered.discarding())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"recipe": "dqn"}, "unknown recipe 'dqn': one of forked-ppo, ppo, es"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"num_rounds": 0}, "rounds must be 1 or more, got 0"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        TrainConfig(**options)  # type: ignore[arg-type]
