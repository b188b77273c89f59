from __future__ import annotations

import numpy as np
import pytest

from rlkv_envs.kv_memory import KVMemoryEnv
from rlkv_envs.pixel_font import text_mask
from rlkv_envs.pools import DEVICE_STATES, HOST_STATES, read_pools
from rlkv_envs.render import COLOURS, HEIGHT, HIGHLIGHT, LINE_WIDTH, WIDTH
from tests.envs.small_machine import legal_action, small_env


def busy_env(render_mode: str | None, num_steps: int = 150) -> KVMemoryEnv:
    env = small_env(render_mode=render_mode)
    rng = np.random.default_rng(0)
    _, info = env.reset(seed=0)
    for _ in range(num_steps):
        *_, info = env.step(legal_action(rng, info["action_mask"]))
    return env


def test_pools_add_up_at_every_decision() -> None:
    env = busy_env(None, 0)
    rng = np.random.default_rng(1)
    terminated = False
    states = set()
    while not terminated:
        pools = read_pools(env._started().state, 0)
        assert sum(segment.num_blocks for segment in pools.device) == 500
        assert sum(segment.num_blocks for segment in pools.host) == 250
        for tier, names in (("device", DEVICE_STATES), ("host", HOST_STATES)):
            shares = pools.shares(tier)
            assert tuple(shares) == names
            assert sum(shares.values()) == pytest.approx(1.0)
            states |= {(tier, state) for state, share in shares.items() if share > 0}
        *_, terminated, _, _ = env.step(int(rng.integers(3)))
    assert len(states) == len(DEVICE_STATES) + len(HOST_STATES)
    assert read_pools(env._started().state, 0).question == "the episode is over"


def test_text_has_a_bar_and_a_legend_for_each_pool() -> None:
    text = busy_env("ansi").render()
    headline, device, device_legend, host, host_legend = text.splitlines()
    assert " s: " in headline and "session" in headline
    for bar, name in ((device, "device"), (host, "host")):
        assert bar.startswith(name)
        assert len(bar.split()[1]) == LINE_WIDTH
    assert all(state in device_legend for state in DEVICE_STATES)
    assert all(state in host_legend for state in HOST_STATES)
    assert device_legend.endswith("of 500 blocks")


def test_a_picture_shows_states_sessions_and_the_candidate() -> None:
    env = busy_env("rgb_array")
    image = env.render()
    assert image.dtype == np.uint8
    assert image.shape == (HEIGHT, WIDTH, 3)
    colours = {tuple(colour) for colour in image.reshape(-1, 3).tolist()}
    assert HIGHLIGHT in colours
    assert COLOURS["free"] in colours
    assert len(colours) > 15  # shades of sessions
    np.testing.assert_array_equal(image, env.render())


def test_letters_are_inked_and_others_are_spaces() -> None:
    assert text_mask("a1", scale=2).shape == (16, 24)
    assert text_mask("abcxyz0189%:.,-/").any(axis=0).sum() > 40
    assert not text_mask("é €").any()
