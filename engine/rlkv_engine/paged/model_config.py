"""What a model is made of, read from a transformers configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rlkv_engine.errors import InputError

#: The architectures that we can run, by the ``model_type`` that a configuration file names.
ARCHITECTURES: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}

#: Ways to stretch rotary embeddings that we know; "default" is none.
ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embeddings: their base, and how they are stretched to longer contexts.

    ``factor`` counts for ``linear`` and ``llama3``, the three fields below it for ``llama3`` alone.
    """

    theta: float
    rope_type: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def __post_init__(self) -> None:
        """Raises ``InputError`` for a type that we do not know or a number that cannot be."""
        if self.rope_type not in ROPE_TYPES:
            raise InputError(
                f"rope type {self.rope_type!r} is not supported: {_listed(ROPE_TYPES)}"
            )
        if self.theta <= 0 or self.factor <= 0:
            raise InputError(f"rope theta {self.theta} and factor {self.factor} must be above 0")
        if self.rope_type == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise InputError(
                f"rope low_freq_factor {self.low_freq_factor} must be above 0 and below "
                f"high_freq_factor {self.high_freq_factor}"
            )


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a Llama-family decoder."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    #: Longest context in tokens.
    max_position_embeddings: int
    rms_norm_eps: float
    rope: RopeConfig
    #: Whether the last projection is the embedding table.
    tie_word_embeddings: bool
    #: Whether query, key and value have biases (Qwen2).
    qkv_bias: bool
    #: Tokens that end an answer.
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raises ``InputError`` naming the first number that cannot be."""
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "max_position_embeddings",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"{self.num_heads} heads cannot be shared evenly by {self.num_kv_heads} KV heads"
            )
        if self.head_dim % 2:
            raise InputError(f"head_dim is {self.head_dim}, rotary embeddings need it even")

    @property
    def qkv_size(self) -> int:
        """Width of query, key and value of one token, side by side."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    def kv_token_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of keys and values of one token, all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * dtype.itemsize

    @classmethod
    def from_hf(cls, config: Any) -> ModelConfig:
        """Reads a transformers ``PreTrainedConfig``.

        Raises:
            InputError: Something in it that we would otherwise compute wrongly.
        """
        architecture = _architecture(config)
        _refuse_unsupported(config)
        num_heads = config.num_attention_heads
        return cls(
            architecture=architecture,
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_layers=config.num_hidden_layers,
            num_heads=num_heads,
            num_kv_heads=getattr(config, "num_key_value_heads", None) or num_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // num_heads,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            rope=_rope(config),
            tie_word_embeddings=bool(config.tie_word_embeddings),
            qkv_bias=config.model_type == "qwen2",
            eos_token_ids=token_ids(config.eos_token_id),
        )


def token_ids(value: int | list[int] | None) -> tuple[int, ...]:
    """The token ids of a field of a configuration that holds none, one or a list."""
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _architecture(config: Any) -> str:
    known = _listed(ARCHITECTURES.values())
    named = getattr(config, "architectures", None) or [ARCHITECTURES.get(config.model_type)]
    if config.model_type not in ARCHITECTURES or named != [ARCHITECTURES[config.model_type]]:
        found = ", ".join(str(name) for name in named if name) or config.model_type
        raise InputError(f"architecture {found} is not supported: {known}")
    return ARCHITECTURES[config.model_type]


def _refuse_unsupported(config: Any) -> None:
    """Options of the known architectures that change what is computed, and that we lack."""
    if config.hidden_act != "silu":
        raise InputError(f"hidden_act {config.hidden_act!r} is not supported: 'silu'")
    for name in ("attention_bias", "mlp_bias"):
        if getattr(config, name, False):
            raise InputError(f"{name} is not supported, only the query, key and value of Qwen2")
    # Qwen2 names a window that it does not use; transformers then sets it to None.
    window = getattr(config, "sliding_window", None)
    if window is not None:
        raise InputError(f"attention in a sliding window of {window} tokens is not supported")
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
        raise InputError(f"quantized weights ({method or 'unnamed method'}) are not supported")


def _rope(config: Any) -> RopeConfig:
    parameters = dict(config.rope_parameters or {})
    if "rope_theta" not in parameters:
        raise InputError(f"rope_parameters {parameters} name no single rope_theta")
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError(
            f"partial_rotary_factor {parameters['partial_rotary_factor']} is not supported: 1.0"
        )
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return RopeConfig(
        theta=parameters["rope_theta"],
        rope_type=parameters.get("rope_type", "default"),
        **{name: parameters[name] for name in names if parameters.get(name) is not None},
    )


def _listed(names: Any) -> str:
    return "known are " + ", ".join(names)
