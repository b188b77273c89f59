"""GGUF files, written as llama.cpp's converter writes them, against what transformers loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlkv_engine.errors import InputError
from rlkv_engine.paged.attention_cpu import cpu_attention
from rlkv_engine.paged.loading import LoadedModel, load_model
from rlkv_engine.paged.tiny_tokenizer import tiny_tokenizer
from tests.engine.paged.paged_run import logits_in_pieces, new_arena, scattered_table
from tests.engine.paged.random_checkpoints import (
    VOCAB_SIZE,
    expected_logits,
    random_model,
    transformers,
)

gguf: Any = pytest.importorskip("gguf")
pytest.importorskip("accelerate")


def load(path: Path) -> LoadedModel:
    return load_model(path, dtype=torch.float32, device="cpu", attention=cpu_attention)


def write_gguf(path: Path, model: Any, **extra: Any) -> None:
    """Writes a transformers model, tensors in F32.

    Args:
        path: The file.
        model: A Llama or Qwen2 of transformers.
        extra: ``tokens`` for a vocabulary, ``scaling`` for a type of rotary scaling, ``rope_freqs``
            for the tensor that llama.cpp keeps scaling in, ``skip`` for a tensor to leave out.
    """
    config = model.config
    arch = config.model_type
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if "tokens" in extra:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(extra["tokens"])
        writer.add_token_merges(extra["merges"])
        writer.add_eos_token_id(2)
    if "scaling" in extra:
        writer.add_string(f"{arch}.rope.scaling.type", extra["scaling"])
    if "rope_freqs" in extra:
        writer.add_tensor("rope_freqs.weight", np.ones(4, np.float32))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        stem, suffix = name.rsplit(".", 1)
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if arch == "llama" and stem.endswith(("q_proj", "k_proj")):
            # Pairs side by side, as llama.cpp rotates them.
            head_dim = config.hidden_size // config.num_attention_heads
            tensor = tensor.view(-1, 2, head_dim // 2, tensor.shape[1]).transpose(1, 2)
            tensor = tensor.reshape(-1, tensor.shape[-1])
        if name != extra.get("skip"):
            writer.add_tensor(f"{names.get_name(stem)}.{suffix}", tensor.numpy().copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("smollm2", {}),
        ("smollm2", {"tie_word_embeddings": False}),
        ("qwen2", {}),
    ],
)
def test_the_logits_are_those_of_transformers(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = random_model(name, **changes)
    write_gguf(tmp_path / "small.gguf", model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="small.gguf", dtype=torch.float32
    )
    loaded = load(tmp_path / "small.gguf")
    assert loaded.name == "small"
    assert loaded.tokenizer is None
    assert loaded.config.tie_word_embeddings == model.config.tie_word_embeddings

    ids = torch.randint(0, VOCAB_SIZE, (60,))
    ours = loaded.model
    logits = logits_in_pieces(ours, ids, [40, 59, 60], new_arena(ours, 4), scattered_table(60, 4))
    difference = (logits - expected_logits(theirs, ids)).abs().max().item()
    print(f"{name}: {difference:.1e}")
    assert difference <= 1e-3
    # And of what was written: nothing was lost on the way.
    assert (logits - expected_logits(model, ids)).abs().max() <= 1e-3


def test_its_tokenizer_is_read(tmp_path: Path) -> None:
    model = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [" ".join(pair) for pair in model["merges"]]
    path = tmp_path / "small.gguf"
    weights = random_model("smollm2", vocab_size=len(tokens), num_hidden_layers=1)
    write_gguf(path, weights, tokens=tokens, merges=merges)
    loaded = load(path)
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.decode(loaded.tokenizer(" the tool")["input_ids"]) == " the tool"
    assert loaded.config.eos_token_ids == (2,)


@pytest.mark.parametrize("extra", [{"scaling": "linear"}, {"rope_freqs": True}])
def test_stretched_embeddings_are_refused(extra: dict[str, Any], tmp_path: Path) -> None:
    """transformers 5.23 loads such a file without its scaling, and would answer wrongly."""
    write_gguf(tmp_path / "long.gguf", random_model("smollm2", num_hidden_layers=1), **extra)
    with pytest.raises(InputError, match=r"long.gguf: its rotary embeddings are stretched"):
        load(tmp_path / "long.gguf")


def test_unstretched_is_fine(tmp_path: Path) -> None:
    model = random_model("smollm2", num_hidden_layers=1)
    write_gguf(tmp_path / "short.gguf", model, scaling="none")
    load(tmp_path / "short.gguf")


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"architecture gpt2 is not .* known are llama, qwen2"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no such thing" * 10])
def test_what_is_no_gguf_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken.gguf: not a readable GGUF file"):
        load(path)


def test_a_missing_tensor_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "hole.gguf"
    model = random_model("smollm2", num_hidden_layers=1)
    write_gguf(path, model, skip="model.layers.0.mlp.up_proj.weight")
    with pytest.raises(
        InputError, match=r"hole.gguf: missing tensors: model.layers.0.mlp.up_proj.weight"
    ):
        load(path)
