from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rlkv_engine.errors import InputError
from rlkv_engine.paged.model_config import ModelConfig, RopeConfig
from rlkv_engine.paged.tiny import CONFIG
from tests.engine.paged.random_checkpoints import CONFIGS, transformers


def hf_config(name: str, **changes: Any) -> Any:
    return transformers.AutoConfig.for_model(**(CONFIGS[name] | changes))


def test_every_number_is_read() -> None:
    config = ModelConfig.from_hf(
        hf_config(
            "llama3",
            vocab_size=700,
            intermediate_size=96,
            num_hidden_layers=3,
            rms_norm_eps=1e-5,
            eos_token_id=[4, 5],
        )
    )
    assert config == ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=700,
        hidden_size=64,
        intermediate_size=96,
        num_layers=3,
        num_heads=8,
        num_kv_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        rope=RopeConfig(500_000.0, "llama3", 8.0, 1.0, 4.0, 64),
        tie_word_embeddings=False,
        qkv_bias=False,
        eos_token_ids=(4, 5),
    )


def test_qwen2_has_biases_and_its_unused_window_is_ignored() -> None:
    config = ModelConfig.from_hf(hf_config("qwen2", sliding_window=4096, use_sliding_window=False))
    assert config.qkv_bias
    assert config.tie_word_embeddings
    assert config.eos_token_ids == ()


def test_bytes_of_a_token() -> None:
    # SmolLM2-135M, as published: 30 layers, 3 KV heads of 64.
    config = replace(CONFIG, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64)
    assert config.kv_token_bytes(torch.bfloat16) == 23_040
    assert config.kv_token_bytes(torch.float32) == 46_080
    assert config.qkv_size == 15 * 64


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama3", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("llama3", {"attention_bias": True}, "attention_bias"),
        ("llama3", {"mlp_bias": True}, "mlp_bias"),
        ("mistral", {"sliding_window": 128}, "window of 128 tokens"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64}, "window of 64 tokens"),
        (
            "smollm2",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope type 'dynamic' is not supported: known are default, linear, llama3",
        ),
        (
            "smollm2",
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor 0.5",
        ),
        ("smollm2", {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequence"),
        ("smollm2", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ("smollm2", {"num_key_value_heads": 2}, "9 heads .* 2 KV heads"),
    ],
)
def test_what_we_would_compute_wrongly_is_refused(
    name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ModelConfig.from_hf(hf_config(name, **changes))


def test_other_architectures_are_refused_with_the_known_ones() -> None:
    config = transformers.AutoConfig.for_model("gpt2")
    with pytest.raises(InputError, match=r"gpt2 is not supported: known are Llama.*Mistral.*Qwen2"):
        ModelConfig.from_hf(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers is 0, must be at least 1"),
        ({"head_dim": 15}, "head_dim is 15"),
    ],
)
def test_impossible_numbers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rope_type": "yarn"}, "rope type 'yarn'"),
        ({"factor": 0.0}, "factor 0.0"),
        ({"rope_type": "llama3", "low_freq_factor": 4.0}, "low_freq_factor 4.0"),
    ],
)
def test_impossible_rope_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RopeConfig(theta=1e4, **options)
