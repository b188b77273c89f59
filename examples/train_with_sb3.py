"""Train MaskablePPO of sb3-contrib on the environment, and compare it with the reference rule.

The return of an episode is how much less its sessions waited than under the rule on the same trace,
in units of the rule's cost per decision: 0 is the rule, above 0 is better.
"""

import sys

import gymnasium
from sb3_contrib import MaskablePPO

import rlkv_envs  # registers rlkv/KVMemory-v0  # noqa: F401


def main(total_timesteps: int = 100_000) -> float:
    """Trains on the train split; returns the mean return of three test episodes."""
    env = gymnasium.make("rlkv/KVMemory-v0")
    model = MaskablePPO("MlpPolicy", env, n_steps=512, ent_coef=0.01, seed=0, device="cpu")
    model.learn(total_timesteps)

    test = gymnasium.make("rlkv/KVMemory-v0", split="test")
    returns = []
    for seed in range(3):
        observation, info = test.reset(seed=seed)
        over, total = False, 0.0
        while not over:
            action, _ = model.predict(
                observation, action_masks=info["action_mask"], deterministic=True
            )
            observation, reward, terminated, truncated, info = test.step(action)
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
        latency = info["normalized_latency_s_mean"]
        print(f"seed {seed}: return {total:8.2f}, {latency:.4f} s/token")
    return sum(returns) / len(returns)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
