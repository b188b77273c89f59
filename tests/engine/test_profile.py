from __future__ import annotations

import math
import pickle
import re
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_engine.errors import InputError
from rlkv_engine.profile import Profile, load_profile, shipped_profiles

SMALL = """\
name = "small"
description = "a profile for tests"
block_size = 16
kv_bytes_per_token = 1000
num_device_blocks = 100
num_host_blocks = 200
iteration_s = 0.01
prefill_token_s = 1e-4
prefill_token_context_s = 1e-7
decode_session_s = 1e-4
kv_token_s = 1e-7
swap_out_bytes_per_s = 1e6
swap_in_bytes_per_s = 2e6
swap_latency_s = 0
shared_link = false
max_num_seqs = 8
max_num_batched_tokens = 64

[sources]
iteration_s = "made up"
"""


def write(folder: Path, text: str, name: str = "small.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def small(tmp_path: Path) -> Profile:
    return load_profile(write(tmp_path, SMALL))


def test_shipped_profiles_load_under_their_own_name() -> None:
    names = shipped_profiles()
    assert {"gptj-6b-a100", "vicuna-13b-2xa100", "llama3-8b-h100"} <= set(names)
    for name in names:
        assert load_profile(name).name == name


@pytest.mark.parametrize("name", shipped_profiles())
def test_every_shipped_number_has_a_source(name: str) -> None:
    profile = load_profile(name)
    numbers = {f.name for f in fields(Profile) if f.default is MISSING} - {
        "name",
        "description",
        "sources",
    }
    assert set(profile.sources) == numbers
    assert all(len(source) > 10 for source in profile.sources.values())


@pytest.mark.parametrize(
    ("name", "a_ms", "c_ms", "a_in", "b_in"),
    [
        ("gptj-6b-a100", 0.0463, 10.0, 0.00462, 108.99),
        ("vicuna-13b-2xa100", 0.0279, 15.4, -0.3297119141, 93.994140625),
    ],
)
def test_infercept_profiles_follow_from_the_published_constants(
    name: str, a_ms: float, c_ms: float, a_in: float, b_in: float
) -> None:
    profile = load_profile(name)
    chunk = profile.max_num_batched_tokens
    budget_tokens = (1 + 2 * a_in) * chunk + 2 * b_in
    iteration_s = (a_ms * chunk + c_ms) / 1e3
    link = budget_tokens * profile.kv_bytes_per_token / iteration_s
    assert profile.iteration_s + profile.prefill_token_s * chunk == pytest.approx(iteration_s)
    assert profile.swap_out_bytes_per_s == pytest.approx(link, rel=1e-3)
    assert profile.swap_in_bytes_per_s == profile.swap_out_bytes_per_s
    assert profile.shared_link


@pytest.mark.parametrize(
    ("name", "device_bytes", "host_bytes"),
    [
        ("gptj-6b-a100", 0.9 * 80e9 - 2 * 6.05e9 - 2e9, 128 * 2**30),
        ("vicuna-13b-2xa100", 2 * (0.9 * 80e9 - 2e9) - 2 * 13.015e9, 2 * 64 * 2**30),
        ("llama3-8b-h100", 0.9 * 80e9 - 2 * 8.03e9 - 3e9, 0.9 * 80e9 - 2 * 8.03e9 - 3e9),
    ],
)
def test_pools_follow_from_their_derivation(
    name: str, device_bytes: float, host_bytes: float
) -> None:
    profile = load_profile(name)
    assert profile.device_kv_bytes == pytest.approx(device_bytes, rel=1e-3)
    assert profile.host_kv_bytes == pytest.approx(host_bytes, rel=1e-3)


def test_sizes_and_block_times(small: Profile) -> None:
    assert small.block_bytes == 16_000
    assert small.device_tokens == 1_600
    assert small.device_kv_bytes == 1_600_000
    assert small.host_kv_bytes == 3_200_000
    assert small.swap_out_block_s == pytest.approx(0.016)
    assert small.swap_in_block_s == pytest.approx(0.008)


@given(tokens=st.integers(0, 500), context=st.integers(0, 500))
def test_recompute_equals_its_chunks(tokens: int, context: int) -> None:
    profile = replace(load_profile("llama3-8b-h100"), max_num_seqs=1, max_num_batched_tokens=64)
    expected_s = 0.0
    for start in range(0, tokens, 64):
        chunk = range(start, min(start + 64, tokens))
        expected_s += profile.iteration_s + profile.prefill_token_s * len(chunk)
        expected_s += profile.prefill_token_context_s * sum(context + token for token in chunk)
    assert profile.recompute_s(tokens, context) == pytest.approx(expected_s)


def test_scaled_host_is_relative_to_the_device_pool(small: Profile) -> None:
    scaled = small.scaled(host=0.5, link=1 / 8)
    assert scaled.num_host_blocks == 50
    assert scaled.swap_out_bytes_per_s == 1e6 / 8
    assert scaled.swap_in_bytes_per_s == 2e6 / 8
    assert scaled.name == "small+host0.5+link0.125"
    assert "0.5 x" in scaled.sources["num_host_blocks"]


def test_scaling_the_link_keeps_the_host_pool(small: Profile) -> None:
    assert small.scaled(link=0.5).num_host_blocks == 200
    assert small.scaled() == small


@given(host=st.floats(0.1, 10), link=st.floats(0.01, 10))
def test_the_name_of_a_scaled_profile_loads_it(host: float, link: float) -> None:
    scaled = load_profile("gptj-6b-a100").scaled(host=host, link=link)
    assert load_profile(scaled.name) == scaled


@pytest.mark.parametrize("factor", [-1.0, math.nan, math.inf])
def test_scaled_refuses_factors_that_cannot_be(small: Profile, factor: float) -> None:
    with pytest.raises(InputError, match=r"profile small: host must be a finite factor, 0 or more"):
        small.scaled(host=factor)
    for value in (factor, 0.0):
        with pytest.raises(InputError, match=r"small: link must be a finite factor above 0"):
            small.scaled(link=value)


def test_a_machine_may_have_no_host_tier(small: Profile) -> None:
    none = small.scaled(host=0)
    assert (none.num_host_blocks, none.host_kv_bytes, none.name) == (0, 0, "small+host0")
    assert load_profile("gptj-6b-a100+host0").num_host_blocks == 0


def test_scaled_refuses_a_host_pool_without_a_block(small: Profile) -> None:
    with pytest.raises(InputError, match=r"profile small: a host pool of 1e-06 has not one block"):
        small.scaled(host=1e-6)


def test_profiles_compare_by_their_numbers_and_pickle(small: Profile) -> None:
    assert replace(small, sources={}) == small
    assert hash(replace(small, sources={})) == hash(small)
    copy = pickle.loads(pickle.dumps(small))
    assert copy == small
    assert copy.sources == small.sources


@pytest.mark.parametrize(
    ("line", "edited", "message"),
    [
        ("num_device_blocks = 100", "num_device_blocks = 0", "at least 1 (got 0)"),
        ("num_host_blocks = 200", "num_host_blocks = -5", "at least 0 (got -5)"),
        ("num_host_blocks = 200", "num_host_blocks = 99999999999", "at most 2147483647"),
        ("num_host_blocks = 200", "num_host_blocks = 2.5", "must be a whole number (got 2.5)"),
        ("num_host_blocks = 200", "num_host_blocks = true", "must be a whole number (got True)"),
        ("iteration_s = 0.01", "iteration_s = nan", "above 0 (got nan)"),
        ("iteration_s = 0.01", "iteration_s = inf", "above 0 (got inf)"),
        ("iteration_s = 0.01", "iteration_s = 0.0", "above 0 (got 0.0)"),
        ("iteration_s = 0.01", f"iteration_s = 1{'0' * 400}", "must be a finite number"),
        ("kv_token_s = 1e-7", "kv_token_s = -1e-7", "at least 0 (got -1e-07)"),
        ("kv_token_s = 1e-7", 'kv_token_s = "1"', "must be a number (got '1')"),
        ("swap_latency_s = 0", "swap_latency_s = -inf", "at least 0 (got -inf)"),
        ("shared_link = false", "shared_link = 0", "must be true or false (got 0)"),
        ("max_num_seqs = 8", "max_num_seqs = 8\ncolour = 1", "unknown field 'colour'"),
        ("max_num_seqs = 8", "max_num_seq = 8", "did you mean max_num_seqs?"),
        ("max_num_batched_tokens = 64", "max_num_batched_tokens = 4", "at least max_num_seqs (8)"),
        ('iteration_s = "made up"', "iteration_s = 3", "sources.iteration_s must be text"),
        ('iteration_s = "made up"', 'iterations = "x"', "sources.iterations must be text"),
        ("max_num_seqs = 8", "max_num_seqs = 8\nhost = 2.0", "there is none"),
        ("kv_token_s = 1e-7", "kv_token_s = = 1", "is not TOML"),
    ],
)
def test_a_bad_value_is_named_with_file_and_line(
    tmp_path: Path, line: str, edited: str, message: str
) -> None:
    text = SMALL.replace(line, edited)
    path = write(tmp_path, text)
    number = text[: text.index(edited)].count("\n") + 1 + edited.count("\n")
    with pytest.raises(InputError) as caught:
        load_profile(path)
    assert str(caught.value).startswith(f"{path}:{number}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_fields_are_named(tmp_path: Path) -> None:
    text = re.sub(r"(kv_token_s|shared_link) = .*\n", "", SMALL)
    with pytest.raises(InputError, match=r"small\.toml: missing field kv_token_s, shared_link$"):
        load_profile(write(tmp_path, text))


def test_a_profile_built_in_code_is_checked_too(small: Profile) -> None:
    with pytest.raises(InputError, match=r"profile small: num_device_blocks .* \(got 0\)"):
        replace(small, num_device_blocks=0)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = " + b"[" * 5_000, b"a = 1" + b"0" * 5_000])
def test_files_that_are_not_toml_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"odd\.toml:.* is not"):
        load_profile(str(path))


def test_unknown_names_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no profile 'gpt-9'.*gptj-6b-a100"):
        load_profile("gpt-9")
    with pytest.raises(InputError, match="no profile"):
        load_profile("gptj-6b-a100+disk2")
    with pytest.raises(InputError, match=r"host1\.2\.3 is not a factor"):
        load_profile("gptj-6b-a100+host1.2.3")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_profile(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load_profile(tmp_path)


VARIANT = 'name = "variant"\ndescription = "a variant"\n'


def test_a_variant_scales_and_overrides_its_base(tmp_path: Path) -> None:
    write(tmp_path, SMALL)
    text = VARIANT + 'base = "small.toml"\nhost = 4\nlink = 0.5\nmax_num_seqs = 16\n'
    variant = load_profile(write(tmp_path, text, "variant.toml"))
    assert variant.name == "variant"
    assert variant.num_host_blocks == 400
    assert variant.swap_in_bytes_per_s == 1e6
    assert variant.max_num_seqs == 16
    assert variant.iteration_s == 0.01
    assert variant.sources["iteration_s"] == "made up"


@pytest.mark.parametrize(
    ("edited", "message"),
    [
        ('base = "variant.toml"', "leads back"),
        ('base = "gone.toml"', "cannot be read"),
        ('base = "gone"', "no profile 'gone'"),
        ("base = 3", "base must be text"),
        ('base = "small.toml"\nlink = 0', "link must be a finite factor above 0"),
        ('base = "small.toml"\nhost = "big"', "host must be a finite factor, 0 or more"),
        ('base = "small.toml"\nhost = -1', "host must be a finite factor, 0 or more"),
    ],
)
def test_variants_that_cannot_be(tmp_path: Path, edited: str, message: str) -> None:
    write(tmp_path, SMALL)
    with pytest.raises(InputError, match=message):
        load_profile(write(tmp_path, VARIANT + edited + "\n", "variant.toml"))


def test_a_variant_of_a_shipped_profile_equals_scaling_it() -> None:
    base = load_profile("llama3-8b-h100")
    variant = load_profile("llama3-8b-h100-host4x-slow")
    scaled = base.scaled(host=4, link=1 / 8)
    assert replace(scaled, name=variant.name, description=variant.description) == variant
