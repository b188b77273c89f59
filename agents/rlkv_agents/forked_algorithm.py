"""``ForkedPPO``: the default recipe with the interface of stable-baselines3."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback

from rlkv_agents.algorithm_files import read_algorithm, tensors_of, write_algorithm
from rlkv_agents.base_rule import Rule
from rlkv_agents.env_parts import Env, check_rule, house_rule_of, make_env, settings_of
from rlkv_agents.forked_learner import ForkedLearner
from rlkv_agents.forked_ppo import UpdateSettings
from rlkv_agents.house_rule import House
from rlkv_agents.inference import BatchInference
from rlkv_agents.policy import NUM_VERBS, AgentPolicy
from rlkv_agents.round_progress import RoundProgress
from rlkv_agents.rule_start_policy import RuleStartPolicy
from rlkv_engine.errors import InputError

LEARNED = "learned"
#: What ``save`` keeps of the constructor's arguments.
SETTINGS = (
    "learning_rate", "n_epochs", "batch_size", "clip_range", "ent_coef", "target_kl", "prior",
    "forks_per_trace", "horizon_pauses", "seed",
)  # fmt: skip
_COUNTS = ("num_timesteps", "num_rounds", "_n_updates")


class ForkedPPO(BaseAlgorithm):
    """PPO on forked advantages: every legal verb is tried from a copy of the engine.

    The learner is that of ``rlkv train`` (``ForkedLearner``); this class gives it the interface of
    stable-baselines3: ``learn``, ``predict``, ``save``, ``load``, its logger and its callbacks.

    A time step is a decision met while following the policy. A rollout is a round of eight traces,
    and callbacks get one ``on_step`` a round: ``eval_freq`` and ``save_freq`` count rounds. Traces
    come from the training split of the environment's scenario, by ``seed``; reward, split and
    horizon of the environment say nothing, as forks measure costs themselves.

    Args:
        policy: "MlpPolicy", a rule and two tanh layers that learn the difference from it.
        env: an environment of rlkv, wrapped or not, a ``Scenario``, or the name of one.
        learning_rate: of Adam, or a function of the part of training that is left (1 to 0).
        n_epochs: passes over the forks of a round, fewer where ``target_kl`` is passed.
        batch_size: decisions in a minibatch.
        clip_range: of PPO's surrogate.
        ent_coef: weight of the entropy.
        target_kl: ends a round's epochs; None: never.
        prior: logit of the rule's verb; 0 starts at even odds.
        forks_per_trace: decisions at which every verb is tried.
        horizon_pauses: length of a branch in mean pauses of the workload.
        rule: where learning starts; by default the environment's reference rule.
        seed: of everything random; None draws one.
        verbose: 1 prints the logger's tables.
        tensorboard_log: folder of the logger's events.

    Raises:
        InputError: an environment that is not rlkv's or has another rule, or a number that cannot
            be.
    """

    #: Of the same shape; its critic is not needed where costs are measured.
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": RuleStartPolicy}

    def __init__(
        self,
        policy: str = "MlpPolicy",
        env: Env | None = None,
        learning_rate: float | Callable[[float], float] = ForkedLearner.learning_rate,
        n_epochs: int = 15,
        batch_size: int = 256,
        clip_range: float = 0.3,
        ent_coef: float = 0.005,
        target_kl: float | None = 0.075,
        prior: float = ForkedLearner.prior,
        forks_per_trace: int = ForkedLearner.forks_per_trace,
        horizon_pauses: float = ForkedLearner.horizon_pauses,
        rule: Rule | None = None,
        seed: int | None = None,
        verbose: int = 0,
        tensorboard_log: str | None = None,
    ) -> None:
        if policy != "MlpPolicy":
            raise InputError(f"policy must be 'MlpPolicy', got {policy!r}")
        for name, value in (
            ("n_epochs", n_epochs), ("batch_size", batch_size), ("clip_range", clip_range),
            ("forks_per_trace", forks_per_trace), ("horizon_pauses", horizon_pauses),
        ):  # fmt: skip
            if not value > 0:
                raise InputError(f"{name} must be above 0, got {value}")
        if seed is None:
            seed = int(np.random.default_rng().integers(2**20))
        self.n_epochs, self.batch_size, self.clip_range = n_epochs, batch_size, clip_range
        self.ent_coef, self.target_kl, self.prior = ent_coef, target_kl, prior
        self.forks_per_trace, self.horizon_pauses = forks_per_trace, horizon_pauses
        self.rule = rule
        self.num_rounds = 0
        self._decisions = 0
        self._learner: ForkedLearner | None = None
        self._start = AgentPolicy(LEARNED, rule or House())
        wrapped: Any = None if env is None else make_env(env, rule or House())
        super().__init__(
            policy,
            wrapped,
            learning_rate,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device="cpu",
            support_multi_env=True,
            seed=seed,
        )
        self._rng = np.random.default_rng(seed)
        self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self._inference = BatchInference(self._start)
        if self.env is None:
            return
        settings = settings_of(self.env)
        if self.rule is None:
            self.rule = house_rule_of(settings)
        check_rule(settings, self.rule)
        assert self.seed is not None
        learner = ForkedLearner(settings.scenario, self.rule, self.seed)
        learner.prior = learner.net.prior = self.prior
        learner.forks_per_trace, learner.horizon_pauses = self.forks_per_trace, self.horizon_pauses
        learner.settings = UpdateSettings(
            clip_range=self.clip_range,
            batch_size=self.batch_size,
            num_epochs=self.n_epochs,
            target_kl=np.inf if self.target_kl is None else self.target_kl,
            entropy_coef=self.ent_coef,
        )
        self._learner = learner
        self.policy = learner.net  # type: ignore[assignment]  # for whoever counts parameters
        self._inference = BatchInference(learner.policy(LEARNED))

    @property
    def agent_policy(self) -> AgentPolicy:
        """What has been learnt so far, as it runs inside an engine and as bundles hold it."""
        return self._start if self._learner is None else self._learner.policy(LEARNED)

    def set_env(self, env: Env, force_reset: bool = True) -> None:
        """Goes on in another environment: with the same network, optimizer and rule.

        Raises:
            InputError: it is not rlkv's, or has another rule.
        """
        made: Any = make_env(env, self.rule or House())
        wrapped = self._wrap_env(made, self.verbose)
        tensors = None if self._learner is None else self._learner.tensors()
        self.env, self.n_envs, self._last_obs = wrapped, wrapped.num_envs, None
        self.observation_space, self.action_space = wrapped.observation_space, wrapped.action_space
        self._setup_model()
        if tensors is not None:
            self._restore(tensors)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "ForkedPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Whole rounds until so many decisions have been met; see stable-baselines3.

        Args:
            total_timesteps: decisions to meet, at least.
            callback: called as above; False from ``on_step`` ends training.
            log_interval: rounds between two dumps of the logger; None: never.
            tb_log_name: of the TensorBoard run.
            reset_num_timesteps: False goes on counting.
            progress_bar: show one on the terminal.

        Raises:
            InputError: there is no environment, or memory never runs short in it.
        """
        learner = self._learner
        if learner is None:
            raise InputError("there is no environment to learn in: load(path, env), or set_env")
        total_timesteps, calls = self._setup_learn(
            total_timesteps,
            RoundProgress.beside(callback) if progress_bar else callback,
            reset_num_timesteps,
            tb_log_name,
        )
        calls.on_training_start(locals(), globals())
        iteration = 0
        while self.num_timesteps < total_timesteps:
            calls.on_rollout_start()
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            self._update_learning_rate(learner.optimizer)
            metrics = learner.run_round(self.num_rounds)
            num_decisions = int(metrics.pop("time/total_timesteps")) - self._decisions
            if num_decisions == 0:
                raise InputError("nothing is ever decided here: memory never runs short")
            iteration += 1
            self.num_rounds += 1
            self._decisions += num_decisions
            self.num_timesteps += num_decisions
            self._inference = BatchInference(learner.policy(LEARNED))
            self._record(metrics | {"rollout/num_decisions": num_decisions}, iteration)
            calls.update_locals(locals())
            calls.on_rollout_end()
            going_on = calls.on_step()
            if log_interval is not None and (iteration % log_interval == 0 or not going_on):
                self.logger.dump(self.num_timesteps)
            if not going_on:
                break
        calls.on_training_end()
        return self

    def predict(  # type: ignore[override]
        self,
        observation: NDArray[np.float32],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], Any]:
        """Verbs for one observation or a batch of them; ``state`` is returned as it is.

        Outside the range that training met, at calls above all, the rule's verb is answered.

        Args:
            observation: ``[num_features]`` or ``[num, num_features]``.
            state: nothing is remembered.
            episode_start: nor forgotten.
            deterministic: the likeliest verb, rather than one drawn by its probability.
            action_masks: ``[3]`` or ``[num, 3]``, True where legal; None: everything is.
        """
        rows = np.atleast_2d(np.asarray(observation, np.float32))
        masks = np.ones((len(rows), NUM_VERBS), np.bool_)
        if action_masks is not None:
            masks = np.asarray(action_masks, np.bool_).reshape(masks.shape)
        answers = self._inference(rows, masks)
        verbs = answers.verb
        if not deterministic:
            drawn = self._rng.random((len(rows), 1))
            # Rounding may leave the last sum a little below 1.
            verbs = (answers.probability.cumsum(axis=1)[:, :-1] <= drawn).sum(axis=1)
        return (verbs[0] if np.ndim(observation) == 1 else verbs), state

    def save(  # type: ignore[override]
        self, path: Path | str, exclude: Any = None, include: Any = None
    ) -> None:
        """Writes a bundle, with the optimizer beside it so that learning can go on.

        Args:
            path: of the folder; ".zip", which SB3's callbacks append, is dropped.
            exclude: as SB3's; nothing can be left out.
            include: as SB3's; nothing can be added.

        Raises:
            InputError: the folder cannot be written.
        """
        arguments = {name: getattr(self, name) for name in SETTINGS}
        arguments["learning_rate"] = float(self.lr_schedule(self._current_progress_remaining))
        counts = {name: getattr(self, name) for name in _COUNTS}
        tensors = {} if self._learner is None else self._learner.tensors()
        write_algorithm(Path(path), self.agent_policy, arguments, counts, tensors)

    @classmethod
    def load(  # type: ignore[override]
        cls, path: Path | str, env: Env | None = None, **arguments: Any
    ) -> Self:
        """A saved model, or the bundle of ``rlkv train``, whose optimizer then starts anew.

        Args:
            path: the folder.
            env: to go on learning in; without one the model can only predict.
            arguments: of the constructor, in the place of the saved ones.

        Raises:
            InputError: not a bundle, or one that was not learnt like this.
        """
        saved = read_algorithm(Path(path))
        policy = saved.policy
        chosen: dict[str, Any] = {"prior": policy.prior, **saved.arguments, "rule": policy.rule}
        model = cls(env=env, **(chosen | arguments))
        model._start = policy
        model._inference = BatchInference(policy)
        for name, value in saved.counts.items():
            setattr(model, name, value)
        if model._learner is not None:
            model._restore(saved.tensors or tensors_of(policy, model._learner))
        return model

    def _restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        assert self._learner is not None
        try:
            self._learner.restore(tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"the model was made for another network: {reason}") from error
        self._decisions = int(tensors["decisions"][0])
        self._inference = BatchInference(self._learner.policy(LEARNED))

    def _record(self, metrics: dict[str, float], iteration: int) -> None:
        # Under SB3's names; updates are counted over all of training.
        self._n_updates += int(metrics.get("train/n_updates", 0))
        elapsed_s = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        done = self.num_timesteps - self._num_timesteps_at_start
        for name, value in (
            metrics
            | {
                "train/n_updates": self._n_updates,
                "train/clip_range": self.clip_range,
                "time/iterations": iteration,
                "time/fps": int(done / elapsed_s),
                "time/time_elapsed": int(elapsed_s),
                "time/total_timesteps": self.num_timesteps,
            }
        ).items():
            self.logger.record(name, value)
