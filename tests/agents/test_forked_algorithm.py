"""``ForkedPPO`` is ``rlkv train``'s learner, and what users of stable-baselines3 expect."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from rlkv_agents import ForkedPPO
from rlkv_agents.algorithm_files import TRAINING_FILE
from rlkv_agents.bundle import load_bundle, save_bundle
from rlkv_agents.forked_learner import HIDDEN, ForkedLearner
from rlkv_agents.house_rule import House
from rlkv_agents.inference import BatchInference
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_agents.vec_env import KVMemoryVecEnv
from rlkv_engine.errors import InputError
from rlkv_envs.kv_memory import KVMemoryEnv
from rlkv_envs.vector import KVMemoryVectorEnv
from tests.agents.small_scenario import random_network, small_scenario

SCENARIO = small_scenario()
RULE = House(guard_pauses=1.0)


def make(env: Any = SCENARIO, **more: Any) -> ForkedPPO:
    return ForkedPPO("MlpPolicy", env, **{"forks_per_trace": 40, "seed": 0, **more})


def environment(**options: Any) -> KVMemoryEnv:
    return KVMemoryEnv(scenario=SCENARIO, **options)


def weights(model: ForkedPPO) -> np.ndarray:
    return np.concatenate([each.ravel() for each in model.agent_policy.weights or ()])


class Recorder(KVWriter):
    """What the logger was asked to write."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        self.rows.append(dict(key_values))

    def close(self) -> None:
        pass


class Witness(BaseCallback):
    """Notes its calls and stops after so many rounds."""

    def __init__(self, num_rounds: int = 10**6) -> None:
        super().__init__()
        self.num_rounds, self.calls = num_rounds, list[str]()

    def _on_training_start(self) -> None:
        self.calls.append("start")

    def _on_rollout_start(self) -> None:
        self.calls.append("rollout")

    def _on_rollout_end(self) -> None:
        self.calls.append("rollout end")

    def _on_step(self) -> bool:
        self.calls.append("step")
        return self.n_calls < self.num_rounds

    def _on_training_end(self) -> None:
        self.calls.append("end")


def test_it_is_the_learner_that_rlkv_train_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ForkedLearner, "forks_per_trace", 40)
    learner = ForkedLearner(SCENARIO, RULE, 3)
    counts = [learner.run_round(number)["time/total_timesteps"] for number in range(2)]
    model = make(rule=RULE, seed=3).learn(int(counts[0]) + 1)
    assert (model.num_rounds, model.num_timesteps) == (2, counts[1])
    np.testing.assert_array_equal(
        weights(model), np.concatenate([w.ravel() for w in learner.weights()])
    )
    assert model.agent_policy.rule == RULE


def test_arguments_reach_the_learner() -> None:
    model = make(
        n_epochs=2, batch_size=32, clip_range=0.1, ent_coef=0.5, target_kl=None, prior=0.5,
        learning_rate=lambda left: 1e-2 * left, horizon_pauses=1.0, forks_per_trace=7,
    )  # fmt: skip
    learner = model._learner
    assert learner is not None
    settings = learner.settings
    assert (settings.num_epochs, settings.batch_size) == (2, 32)
    assert (settings.clip_range, settings.entropy_coef) == (0.1, 0.5)
    assert settings.target_kl == np.inf
    assert (learner.prior, learner.net.prior, learner.policy("x").prior) == (0.5, 0.5, 0.5)
    assert (learner.forks_per_trace, learner.horizon_pauses) == (7, 1.0)
    model.learn(1)
    assert learner.optimizer.param_groups[0]["lr"] == 1e-2
    model.num_timesteps = 50
    model.learn(50, reset_num_timesteps=False)
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.5e-2)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda: environment(),
        lambda: environment(ask_call=False, reward="cost"),
        lambda: Monitor(environment()),
        lambda: DummyVecEnv([environment, environment]),
        lambda: KVMemoryVecEnv(KVMemoryVectorEnv(2, scenario=SCENARIO)),
    ],
)
def test_whatever_the_environment_is_wrapped_in(wrapped: Any) -> None:
    model = make(wrapped())
    # The rule is read from the environment's reference.
    settings = environment().settings
    assert model.rule is not None
    np.testing.assert_allclose(model.rule.params(settings.table), settings.rule, rtol=1e-12)
    model.learn(1)
    assert model.num_rounds == 1 and np.abs(weights(model)).sum() > 0


def test_environments_that_it_cannot_learn_in() -> None:
    for env, named in (
        (gymnasium.make("CartPole-v1"), "CartPoleEnv is not an environment of rlkv"),
        (environment(rule=make_rule("lru").params(SCENARIO.table)), "reference rule is not House"),
        (environment(table=small_scenario(workload="infercept").table), "table of its own"),
        ("nowhere", "unknown scenario 'nowhere'"),
    ):
        with pytest.raises(InputError, match=named):
            make(env)
    lru = make_rule("lru")
    model = make(environment(rule=lru.params(SCENARIO.table)), rule=lru)
    assert model.agent_policy.rule == lru
    with pytest.raises(InputError, match="policy must be 'MlpPolicy'"):
        ForkedPPO("CnnPolicy", SCENARIO)
    with pytest.raises(InputError, match="batch_size must be above 0, got 0"):
        make(batch_size=0)
    with pytest.raises(InputError, match="nothing is ever decided"):
        # Reset finds a decision at a call; forks, which follow REVISITs, none.
        make(KVMemoryEnv(scenario=small_scenario(rate_per_s=0.001))).learn(1)
    with pytest.raises(InputError, match="there is no environment to learn in"):
        make(None).learn(1)


def test_it_logs_under_the_names_of_stable_baselines3() -> None:
    model, recorder = make(), Recorder()
    model.set_logger(Logger(None, [recorder]))
    model.learn(1)
    model.learn(1, reset_num_timesteps=False)
    first, second = recorder.rows
    assert {
        "rollout/num_forks", "rollout/num_decisions", "train/approx_kl", "train/clip_fraction",
        "train/clip_range", "train/loss", "train/entropy_loss", "train/n_updates",
        "train/learning_rate", "time/total_timesteps", "time/fps", "time/iterations",
        "time/time_elapsed",
    } <= set(first)  # fmt: skip
    assert 0 < first["train/n_updates"] < second["train/n_updates"]
    assert second["time/total_timesteps"] > first["time/total_timesteps"] > 0
    assert -np.log(3) <= first["train/entropy_loss"] < 0


def test_callbacks_are_called_in_order_and_can_stop_it() -> None:
    witness = Witness(2)
    model = make().learn(10**9, callback=witness)
    per_round = ["rollout", "rollout end", "step"]
    assert witness.calls == ["start", *per_round, *per_round, "end"]
    assert model.num_rounds == 2 and witness.num_timesteps == model.num_timesteps
    seen = []

    def note(local: dict[str, Any], other: dict[str, Any]) -> bool:
        seen.append(local["iteration"])
        return True

    make().learn(1, callback=note)
    assert seen == [1]


def test_callbacks_of_stable_baselines3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated = EvalCallback(
        Monitor(environment(split="validation")), n_eval_episodes=1, eval_freq=1, verbose=0,
        best_model_save_path=str(tmp_path), log_path=None,
    )  # fmt: skip
    kept = CheckpointCallback(save_freq=1, save_path=str(tmp_path), name_prefix="model")
    model = make().learn(1, callback=[evaluated, kept], progress_bar=True)
    assert np.isfinite(evaluated.last_mean_reward)
    assert (tmp_path / "best_model" / "bundle.json").exists()
    again = ForkedPPO.load(tmp_path / f"model_{model.num_timesteps}_steps.zip")
    np.testing.assert_array_equal(weights(again), weights(model))
    mean, _ = evaluate_policy(model, Monitor(environment()), n_eval_episodes=1)  # type: ignore[arg-type]
    assert np.isfinite(mean)
    assert "learn" in capsys.readouterr().out


def test_before_it_has_learnt_it_answers_as_the_rule_does() -> None:
    env = environment()
    model = make(env)
    env.reset(seed=0)
    over, total = False, 0.0
    observation, info = env.reset(seed=0)
    while not over:
        action, state = model.predict(
            observation, action_masks=info["action_mask"], deterministic=True
        )
        assert state is None
        observation, reward, terminated, truncated, info = env.step(int(action))
        total, over = total + float(reward), terminated or truncated
    # The return of the reference rule is 0.
    assert total == pytest.approx(0.0, abs=1e-9)


def test_predictions_of_one_and_of_many() -> None:
    model = make().learn(1)
    rng = np.random.default_rng(0)
    rows = rng.random((200, 100)).astype(np.float32)[:, : model.observation_space.shape[0]]  # type: ignore[index]
    masks = np.ones((200, 3), np.bool_)
    masks[:, 1] = False
    policy = replace(model._inference._policy, trained_range=None)  # anywhere
    model._inference = BatchInference(policy)
    verbs, _ = model.predict(rows, deterministic=True)
    assert verbs.shape == (200,)
    one, _ = model.predict(rows[5], deterministic=True)
    assert one == verbs[5] and np.ndim(one) == 0
    drawn = np.array([model.predict(rows, action_masks=masks)[0] for _ in range(20)])
    assert set(np.unique(drawn)) == {0, 2}
    probability = model._inference(rows, masks).probability[:, 2]
    assert (drawn == 2).mean() == pytest.approx(probability.mean(), abs=0.05)


def test_a_saved_model_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = make(rule=RULE).learn(1)
    whole.save(tmp_path / "half")
    whole.learn(1, reset_num_timesteps=False)
    # Folder, arguments, network, optimizer, rounds: everything comes from the files.
    parts = ForkedPPO.load(tmp_path / "half", SCENARIO)
    assert (parts.forks_per_trace, parts.num_rounds, parts.rule) == (40, 1, RULE)
    parts.learn(1, reset_num_timesteps=False)
    np.testing.assert_array_equal(weights(whole), weights(parts))
    assert (whole.num_timesteps, whole._n_updates) == (parts.num_timesteps, parts._n_updates)
    assert ForkedPPO.load(tmp_path / "half", SCENARIO, clip_range=0.1).clip_range == 0.1
    # The folder is a bundle.
    loaded = load_bundle(tmp_path / "half").policy
    assert loaded.rule == RULE and loaded.weights is not None
    assert {path.name for path in (tmp_path / "half").iterdir()} == {
        "bundle.json", "weights.safetensors", TRAINING_FILE,
    }  # fmt: skip


def test_a_bundle_of_rlkv_train_is_a_start_too(tmp_path: Path) -> None:
    policy = random_network(hidden=HIDDEN)
    save_bundle(tmp_path / "net", policy, {})
    model = ForkedPPO.load(tmp_path / "net", SCENARIO, seed=0, forks_per_trace=20)
    assert model.prior == policy.prior and model.rule == policy.rule
    given = np.concatenate([each.ravel() for each in policy.weights or ()])
    np.testing.assert_allclose(weights(model), given, rtol=1e-6)
    model.learn(1)
    assert not np.allclose(weights(model), given, rtol=1e-6)

    save_bundle(tmp_path / "rule", AgentPolicy("house", RULE), {})
    started = ForkedPPO.load(tmp_path / "rule", SCENARIO)
    assert started.rule == RULE
    save_bundle(tmp_path / "narrow", random_network(hidden=8), {})
    with pytest.raises(InputError, match="made for another network"):
        ForkedPPO.load(tmp_path / "narrow", SCENARIO)


def test_it_moves_to_another_environment() -> None:
    model = make(environment()).learn(1)
    before = weights(model)
    model.set_env(KVMemoryEnv(scenario=small_scenario(num_sessions=20)))
    np.testing.assert_array_equal(weights(model), before)
    model.learn(1, reset_num_timesteps=False)
    assert model.num_rounds == 2
    with pytest.raises(InputError, match="is not an environment of rlkv"):
        model.set_env(gymnasium.make("CartPole-v1"))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    make().save(tmp_path)
    payload = (tmp_path / TRAINING_FILE).read_bytes()
    (tmp_path / TRAINING_FILE).write_bytes(payload[:-1] + bytes([payload[-1] ^ 1]))
    with pytest.raises(InputError, match=f"{TRAINING_FILE}: not the file it was saved with"):
        ForkedPPO.load(tmp_path)
    (tmp_path / TRAINING_FILE).unlink()
    with pytest.raises(InputError, match=f"{TRAINING_FILE}: cannot read it"):
        ForkedPPO.load(tmp_path)
    document = json.loads((tmp_path / "bundle.json").read_text())
    document["forked_ppo"] = {"arguments": {}}
    (tmp_path / "bundle.json").write_text(json.dumps(document))
    (tmp_path / TRAINING_FILE).write_bytes(payload)
    with pytest.raises(InputError, match=r"bundle.json: forked_ppo lacks something: 'counts'"):
        ForkedPPO.load(tmp_path)
