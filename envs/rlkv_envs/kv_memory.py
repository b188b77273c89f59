"""``rlkv/KVMemory-v0``: one engine, one decision a step."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Unpack

import gymnasium
import numpy as np
from numpy.typing import NDArray

from rlkv_engine import state as S
from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.engine_stack import MAX_DRAWS, EngineStack
from rlkv_envs.env_settings import EnvOptions, make_settings
from rlkv_envs.metrics import measure
from rlkv_envs.observation import action_space, observation_space
from rlkv_envs.render import RENDER_MODES, render
from rlkv_envs.stepping import ELAPSED, SPENT, TERMS


class KVMemoryEnv(gymnasium.Env[NDArray[Any], np.int64]):
    """What to do with the KV cache of sessions that wait for a tool: keep, swap out, or discard.

    ## Description
    A serving engine (docs/scheduler.md) runs a trace of agent sessions on the costs of a profile.
    A step is one decision about one paused session, either at its CALL (the pause has just begun)
    or at a REVISIT (memory is short for a new session, one that came back, or one that decodes).
    Between two decisions the engine runs on its own; none or many seconds may pass.

    ## Action Space
    ``Discrete(3)``; ``action_masks()`` and ``info["action_mask"]`` say what is legal.

    | Num | Action | At a CALL | At a REVISIT |
    |---|---|---|---|
    | 0 | PRESERVE | keep; may be asked for later | ask the next one; NEW: it waits |
    | 1 | SWAP | start copying out, keep the blocks | copy the blocks asked for out, free them |
    | 2 | DISCARD | keep until something overwrites it | free the blocks asked for |

    PRESERVE and DISCARD are always legal. SWAP needs room in the host pool; where it has none a
    SWAP does what PRESERVE does at a CALL and what DISCARD does at a REVISIT, and is counted in
    ``info["illegal_swaps"]``. If every candidate of a returning or decoding session is skipped,
    the first ones are taken by the reference rule.

    ## Observation Space
    ``Box`` of float32, ``rlkv_engine.observe.FEATURES``. All are known at the time of the decision
    and dimensionless: shares of a pool, ratios of costs, pauses over the workload's mean pause.
    The expected remaining pause is the mean residual life of the tool in ``table``. The first 21
    are of the moment when the offer opened, the others of the candidate. The observation after
    termination is all zeros.

    | Num | Observation | Min | Max | Meaning |
    |---|---|---|---|---|
    | 0 | point_call | 0 | 1 | 1 at a CALL |
    | 1 | point_new | 0 | 1 | 1 at a REVISIT for a new session |
    | 2 | point_resume | 0 | 1 | 1 at a REVISIT for a session that came back |
    | 3 | point_grow | 0 | 1 | 1 at a REVISIT for a decoding session |
    | 4 | free | 0 | 1 | free device blocks / device pool |
    | 5 | reclaimable | 0 | 1 | discarded blocks not overwritten yet / device pool |
    | 6 | pending | 0 | 1 | blocks being swapped out / device pool |
    | 7 | paused_firm | 0 | 1 | blocks held firmly by paused sessions / device pool |
    | 8 | decoding | 0 | 1 | KV of decoding sessions / device pool |
    | 9 | host_free | 0 | 1 | free host blocks / host pool (0 without a host tier) |
    | 10 | host_size | 0 | 1 | h / (h + 1), h = host pool / device pool |
    | 11 | running | 0 | 1 | sessions in PREFILL or DECODE / max_num_seqs |
    | 12 | queued | 0 | 2 | log(1 + sessions back from a tool that wait for memory) / 4 |
    | 13 | new_waiting | 0 | 4 | log(1 + sessions never admitted yet) / 4 |
    | 14 | paused | 0 | 4 | log(1 + paused sessions) / 4 |
    | 15 | need | 0 | 1 | blocks the requester needs / device pool |
    | 16 | short | 0 | 1.1 | blocks missing when the offer opened, with slack / device pool |
    | 17 | wait_pauses | 0 | 1 | w / (w + 1), w = requester's wait so far / mean pause |
    | 18 | wait_recompute | 0 | 1 | w / (w + 1), w = its wait / time to compute what it needs |
    | 19 | waited_1s | 0 | 1 | w / (w + 1 s), w = its wait |
    | 20 | link_speed | -2 | 2 | log10(copying a block out and in / recomputing it), clipped |
    | 21 | context | 0 | 1 | tokens of context / device pool in tokens |
    | 22 | on_device | 0 | 1 | firm device blocks / blocks of its context |
    | 23 | on_host | 0 | 1 | blocks that the host holds / blocks of its context |
    | 24 | dirty | 0 | 1 | firm device blocks not on the host / device pool |
    | 25 | copying | 0 | 1 | 1 while a write-through of it runs |
    | 26 | turn | 0 | 4 | log(1 + turns so far) / 3 |
    | 27 | elapsed_pauses | 0 | 1 | e / (e + 1), e = elapsed pause / mean pause |
    | 28 | elapsed | 0 | 4 | log(1 + elapsed pause in s) / 5 |
    | 29 | remaining_pauses | 0 | 1 | r / (r + 1), r = expected remaining pause / mean pause |
    | 30 | remaining_0.3s | 0 | 1 | r / (r + 0.3 s), r = expected remaining pause |
    | 31 | remaining_1s | 0 | 1 | r / (r + 1 s), r = expected remaining pause |
    | 32 | remaining_3s | 0 | 1 | r / (r + 3 s), r = expected remaining pause |
    | 33 | remaining_10s | 0 | 1 | r / (r + 10 s), r = expected remaining pause |
    | 34 | remaining_30s | 0 | 1 | r / (r + 30 s), r = expected remaining pause |
    | 35 | remaining_100s | 0 | 1 | r / (r + 100 s), r = expected remaining pause |
    | 36 | link_over_recompute | -2 | 2 | log10(copying its context / recomputing it), clipped |
    | 37 | recompute_pauses | 0 | 1 | c / (c + 1), c = time to recompute it / mean pause |
    | 38 | remaining_recompute | 0 | 1 | r / (r + 10 c), c = time to recompute it |
    | 39 | idleness | 0 | 1 | share of its life so far spent waiting for tools |
    | 40 | rank | 0 | 1 | k / (k + 4), k = candidates asked before it in this offer |
    | 41 | rule_preserve | 0 | 1 | 1 if the reference rule says PRESERVE |
    | 42 | rule_swap | 0 | 1 | 1 if the reference rule says SWAP |
    | 43 | rule_discard | 0 | 1 | 1 if the reference rule says DISCARD |

    ## Rewards
    The cost is the time that sessions spend in the system outside their own tool time, each
    weighted by 1 / the tokens it generates: over a finished episode it is the sum over sessions of
    normalized latency, in s/token. The reward of a step is minus the cost run up in it, plus, with
    ``reward="paired"``, the cost that the reference rule ran up on the same trace over the same
    time, in units of that rule's mean cost per decision. So the return of a terminated episode is
    exactly ``(reference total - total) / unit``, and that of the reference rule is 0. With
    ``reward="cost"`` it is ``-total / unit``. The first reward carries what went before the first
    decision, the last one of a terminated episode what the reference has still left.

    Decisions are not evenly spaced (a semi-Markov process): a discount should be of elapsed time,
    ``exp(-dt_s / tau_s)`` between two steps. Rewards are not discounted within a step.

    ``info`` has the terms of the step: ``dt_s``; ``cost`` and ``reference_cost`` (s/token), and of
    the cost ``queueing_cost`` (waiting for memory) and ``loading_cost`` (copying in);
    ``recompute_s`` (forward time on KV computed before) and ``held_block_s`` (device memory held
    firmly by paused sessions). Beside them: ``now_s``, ``point`` (0 CALL, 1 NEW, 2 RESUME,
    3 GROW), ``action_mask``, ``illegal_swaps``, and after the last step the figures of
    ``metrics.RunResult.as_info``.

    ## Starting State
    ``reset(seed=...)`` draws a trace, which depends on the seed alone, starts it on an empty
    engine, and runs to the first decision; a trace without any is drawn again.
    ``options={"trace": trace}`` runs a given one.

    ## Episode End
    Termination: every session has finished.
    Truncation: the decision is the first at or after ``horizon_s``; it is observed as always, so
    that a value can be bootstrapped from it.

    ## Arguments
    Args:
        scenario: ``Scenario`` or name of one, whose parts the next four replace; None: none.
        profile: ``Profile`` or name; the default is "gptj-6b-a100-40gb+link0.125".
        workload: ``Workload`` or name; the default is "crossover".
        arrivals: process of arrivals; the default is the workload's own (Poisson) at 2.3
            sessions/s, where the default machine takes twice its empty time for a token.
        num_sessions: of a trace; the default is 300.
        rule: reference rule, shape ``[rule.RULE_SIZE]``. It orders the candidates, is seen in the
            last three observations, and is what rewards compare with. Default: the house rule.
        lease_s: leases by row of ``table``, for rules that set them at a CALL; seconds.
        table: pause statistics; the default is fitted on training sessions of the workload.
        horizon_s: time limit of an episode, seconds; none by default.
        reward: "paired" or "cost".
        split: of the workload: "train", "validation" or "test".
        ask_call: False lets the rule answer CALLs, so that only REVISITs are steps.
        render_mode: "ansi", "rgb_array" or None.

    ## Version History
    * v0: first version.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 8}  # noqa: RUF012

    def __init__(self, *, render_mode: str | None = None, **options: Unpack[EnvOptions]) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise InputError(
                f"render_mode must be one of {', '.join(RENDER_MODES)}, got {render_mode!r}"
            )
        self.render_mode = render_mode
        self.settings = make_settings(options)
        self.observation_space = observation_space()
        self.action_space = action_space()
        self._stack: EngineStack | None = None

    @property
    def trace(self) -> Trace:
        """The trace of this episode."""
        return self._started().traces[0]

    @property
    def total_cost(self) -> float:
        """Cost so far, s/token summed over sessions."""
        return float(self._started().steps.mark[0, SPENT])

    @property
    def reference_total_cost(self) -> float:
        """Cost of the reference rule over the whole trace, s/token summed over sessions."""
        return float(self._started().reference_total[0])

    @property
    def reward_unit(self) -> float:
        """Cost in one unit of reward, s/token: the reference cost per decision of the trace."""
        return float(self._started().reference.unit[0])

    @property
    def dt_s(self) -> float:
        """Seconds between the last two decisions."""
        return float(self._started().steps.delta[0, ELAPSED])

    def action_masks(self) -> NDArray[np.bool_]:
        """True where an action is legal, shape ``[3]``."""
        mask: NDArray[np.bool_] = self._started().steps.mask[0].copy()
        return mask

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Runs a new trace to its first decision.

        Args:
            seed: of the trace; None goes on with the environment's own random stream.
            options: ``{"trace": Trace}`` runs a given trace instead.

        Raises:
            InputError: nothing is ever decided in this trace, or in 100 drawn ones.
        """
        super().reset(seed=seed)
        given = (options or {}).get("trace")
        for _ in range(1 if given is not None else MAX_DRAWS):
            trace = given
            if trace is None:
                trace = self.settings.trace(int(self.np_random.integers(2**31 - 1)))
            self._stack = EngineStack(self.settings, [trace], 1)
            self._stack.start(0, 0)
            if not self._stack.run():
                return self._stack.steps.observation[0].copy(), self._info()
        raise InputError("nothing is ever decided: memory never runs short and ask_call is off")

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Answers the open decision and runs to the next."""
        stack = self._started()
        steps = stack.steps
        stack.step(np.array([action], np.int64))
        terminated, truncated = bool(steps.terminated[0]), bool(steps.truncated[0])
        info = self._info()
        if terminated or truncated:
            info |= measure(S.one_engine(stack.state, 0)).as_info()
        observation = steps.observation[0].copy()
        return observation, float(steps.reward[0]), terminated, truncated, info

    def render(self) -> Any:
        """The pools as text (``ansi``) or as a picture (``rgb_array``)."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render_mode")
            return None
        return render(self.render_mode, self._started().state, 0)

    def fork(self) -> KVMemoryEnv:
        """An independent copy: the same actions give the same future."""
        copy = object.__new__(KVMemoryEnv)
        copy.__dict__.update(self.__dict__)
        copy._stack = self._started().fork()
        copy._np_random = deepcopy(self._np_random)
        return copy

    def _started(self) -> EngineStack:
        if self._stack is None:
            raise RuntimeError("call reset first")
        return self._stack

    def _info(self) -> dict[str, Any]:
        stack = self._started()
        info: dict[str, Any] = dict(zip(TERMS, stack.steps.delta[0].tolist(), strict=True))
        info["now_s"] = float(stack.state.f[0, S.NOW])
        info["point"] = int(stack.state.n[0, S.DECISION_POINT])
        info["action_mask"] = self.action_masks()
        info["illegal_swaps"] = int(stack.steps.illegal[0])
        return info
