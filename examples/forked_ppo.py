"""Learn from forks with the interface of stable-baselines3, and look at what it is worth."""

import sys

from rlkv_agents import ForkedPPO
from rlkv_agents.evaluate import evaluate, paired_ratio
from rlkv_agents.policy import AgentPolicy
from rlkv_envs.scenario import load_scenario


def main(total_timesteps: int = 20_000, folder: str = "runs/forked-ppo") -> float:
    """Trains on the slow-link crossover; returns the latency on test traces over the rule's."""
    scenario = load_scenario("crossover-slow").with_sessions(400)
    model = ForkedPPO("MlpPolicy", scenario, forks_per_trace=100, seed=0, verbose=1)
    model.learn(total_timesteps)
    model.save(folder)  # a bundle: rlkv eval --bundle runs/forked-ppo

    learned = ForkedPPO.load(folder).agent_policy
    runs = evaluate(scenario, [AgentPolicy("rule", learned.rule), learned], seeds=range(4))
    ratio, (low, high) = paired_ratio(runs[learned.name], runs["rule"])
    print(f"{ratio:.2f}x of the rule's latency [{low:.2f}, {high:.2f}]")
    return ratio


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
