from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlkv_agents.actor import Actor
from rlkv_agents.forked_ppo import UpdateSettings, advantages, update
from rlkv_agents.forking import Forks

#: Two numbers that say which case it is, then the rule's verb.
NUM_FEATURES = 5
SETTINGS = UpdateSettings(batch_size=64)


def net_and_optimizer(learning_rate: float = 1e-3) -> tuple[Actor, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = Actor(NUM_FEATURES, 16, prior=1.0)
    return net, torch.optim.Adam(net.parameters(), lr=learning_rate)


def probabilities(net: Actor, forks: Forks) -> np.ndarray:
    with torch.no_grad():
        log = net.log_probability(torch.as_tensor(forks.observation), torch.as_tensor(forks.mask))
    probability = log.double().exp().numpy()
    return np.asarray(probability / probability.sum(axis=1, keepdims=True))


def two_cases(net: Actor, cheap: tuple[int, int], num: int = 256) -> Forks:
    """Decisions of two kinds; in each one verb costs 1, the others 2. The rule says PRESERVE."""
    case = np.arange(num) % 2
    observation = np.zeros((num, NUM_FEATURES), np.float32)
    observation[np.arange(num), case] = 1.0
    observation[:, 2] = 1.0
    cost = np.full((num, 3), 2.0)
    cost[np.arange(num), np.array(cheap)[case]] = 1.0
    forks = Forks(observation, np.ones((num, 3), np.bool_), np.zeros((num, 3)), cost)
    return forks._replace(probability=probabilities(net, forks))


def test_advantages_by_hand() -> None:
    forks = Forks(
        np.zeros((2, NUM_FEATURES), np.float32),
        np.array([[True, False, True], [True, True, True]]),
        np.array([[0.5, 0.0, 0.5], [0.2, 0.3, 0.5]]),
        np.array([[2.0, 0.0, 4.0], [1.0, 2.0, 3.0]]),
    )
    # Expected costs 3 and 2.3; the spread is over what is legal: 1, -1, 1.3, 0.3, -0.7.
    spread = np.sqrt((0.82**2 + 1.18**2 + 1.12**2 + 0.12**2 + 0.88**2) / 5)
    expected = np.array([[1.0, 0.0, -1.0], [1.3, 0.3, -0.7]]) / spread
    np.testing.assert_allclose(advantages(forks, 3.0), expected, rtol=1e-9)
    np.testing.assert_allclose(advantages(forks, 1.0), np.clip(expected, -1, 1), rtol=1e-9)
    # Under the policy that was followed nothing is to be gained on average.
    np.testing.assert_allclose((forks.probability * expected).sum(axis=1), 0.0, atol=1e-12)


def test_advantages_do_not_depend_on_the_unit_of_cost_or_on_its_level() -> None:
    net, _ = net_and_optimizer()
    forks = two_cases(net, (0, 2))
    other = forks._replace(cost=1000.0 * forks.cost + 7.0)
    np.testing.assert_allclose(advantages(forks, 3.0), advantages(other, 3.0), rtol=1e-9)


def test_probability_moves_to_the_cheaper_verb_in_each_case() -> None:
    settings = replace(SETTINGS, target_kl=10.0, num_epochs=20)
    net, optimizer = net_and_optimizer()
    cheap = (1, 2)
    for _ in range(4):
        forks = two_cases(net, cheap)
        before = forks.probability
        metrics = update(net, optimizer, forks, settings, torch.Generator().manual_seed(0))
        after = probabilities(net, forks)
        for case in range(2):
            assert after[case, cheap[case]] > before[case, cheap[case]]
            assert after[case, 0] < before[case, 0]
        assert metrics["train/n_updates"] == 20
    assert after[0].argmax() == 1 and after[1].argmax() == 2


def test_a_verb_that_is_not_legal_stays_impossible() -> None:
    net, optimizer = net_and_optimizer()
    forks = two_cases(net, (0, 2))
    forks.mask[:, 1] = False
    forks.cost[:, 1] = 0.0
    forks = forks._replace(probability=probabilities(net, forks))
    update(net, optimizer, forks, SETTINGS, torch.Generator().manual_seed(0))
    after = probabilities(net, forks)
    assert (after[:, 1] == 0.0).all() and np.isfinite(after).all()
    assert after[1, 2] > forks.probability[1, 2]


@pytest.mark.parametrize("clip_range", [0.3, 100.0])
def test_the_clip_bounds_what_one_round_takes_from_a_verb(clip_range: float) -> None:
    # Without a stop at a divergence: the dear verbs lose about the clip range, or everything.
    settings = UpdateSettings(
        clip_range=clip_range, target_kl=100.0, num_epochs=300, entropy_coef=0.0, batch_size=64
    )
    net, optimizer = net_and_optimizer()
    forks = two_cases(net, (2, 2), num=64)
    metrics = update(net, optimizer, forks, settings, torch.Generator().manual_seed(0))
    ratio = (probabilities(net, forks) / forks.probability)[:, :2]
    clipped = clip_range < 1
    assert (ratio > 0.5).all() and (ratio < 0.75).all() if clipped else (ratio < 0.1).all()
    assert metrics["train/clip_fraction"] == (1.0 if clipped else 0.0)


def test_it_stops_at_the_divergence_that_is_wanted() -> None:
    net, optimizer = net_and_optimizer(learning_rate=0.05)
    forks = two_cases(net, (1, 2))
    metrics = update(net, optimizer, forks, SETTINGS, torch.Generator().manual_seed(0))
    assert metrics["train/n_updates"] < SETTINGS.num_epochs
    assert metrics["train/approx_kl"] > SETTINGS.target_kl
    old, new = forks.probability, probabilities(net, forks)
    kl = (old * np.log(old / new)).sum(axis=1).mean()
    assert metrics["train/approx_kl"] == pytest.approx(kl, rel=1e-3)

    patient = replace(SETTINGS, target_kl=1e9)
    net, optimizer = net_and_optimizer(learning_rate=0.05)
    metrics = update(net, optimizer, forks, patient, torch.Generator().manual_seed(0))
    assert metrics["train/n_updates"] == patient.num_epochs


def test_where_all_verbs_cost_the_same_the_policy_stays() -> None:
    settings = replace(SETTINGS, entropy_coef=0.0)
    net, optimizer = net_and_optimizer()
    forks = two_cases(net, (0, 0))
    forks.cost[:] = 1.5
    update(net, optimizer, forks, settings, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(probabilities(net, forks), forks.probability, atol=1e-3)


def test_one_fork_is_enough() -> None:
    net, optimizer = net_and_optimizer()
    forks = two_cases(net, (2, 2), num=1)
    metrics = update(net, optimizer, forks, SETTINGS, torch.Generator().manual_seed(0))
    assert all(np.isfinite(value) for value in metrics.values())
    assert probabilities(net, forks)[0, 2] > forks.probability[0, 2]


def test_updates_depend_on_nothing_but_their_arguments() -> None:
    after: list[np.ndarray] = []
    for _ in range(2):
        net, optimizer = net_and_optimizer()
        forks = two_cases(net, (1, 2), num=300)
        torch.manual_seed(len(after))  # somebody else draws
        torch.rand(len(after) + 1)
        update(net, optimizer, forks, SETTINGS, torch.Generator().manual_seed(7))
        after.append(probabilities(net, forks))
    np.testing.assert_array_equal(after[0], after[1])
