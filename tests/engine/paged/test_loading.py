"""Folders that cannot be loaded say why."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlkv_engine.errors import InputError
from rlkv_engine.paged.attention_torch import torch_attention
from rlkv_engine.paged.loading import LoadedModel, load_model
from rlkv_engine.paged.tiny_tokenizer import tiny_tokenizer
from tests.engine.paged.random_checkpoints import random_model, saved

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def load(path: Path | str, **options: Any) -> LoadedModel:
    defaults: dict[str, Any] = {
        "dtype": torch.float32,
        "device": "cpu",
        "attention": torch_attention,
    }
    return load_model(path, **(defaults | options))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(random_model("smollm2"), tmp_path_factory.mktemp("checkpoint") / "smol")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "smol"))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_a_folder_gives_model_tokenizer_and_the_ends_of_answers(folder: Path) -> None:
    tiny_tokenizer().save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 40]}')
    loaded = load(folder)
    assert loaded.name == "smol"
    assert loaded.config is loaded.model.config
    assert loaded.config.eos_token_ids == (2, 40)
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.decode(loaded.tokenizer(" the tool")["input_ids"]) == " the tool"
    assert "<tool_call>" in loaded.tokenizer.chat_template


def test_a_relative_path_has_the_name_of_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert load(".").name == "smol"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_converted(folder: Path, dtype: torch.dtype) -> None:
    full, half = load(folder).model, load(folder, dtype=dtype).model
    assert half.embedding.dtype == dtype
    assert torch.equal(half.embedding, full.embedding.to(dtype))
    assert half.frequencies.dtype == torch.float32


def test_a_missing_tensor_is_named(folder: Path) -> None:
    edit_tensors(folder, lambda t: [t.pop(f"model.layers.{i}.mlp.up_proj.weight") for i in (0, 2)])
    with pytest.raises(InputError) as caught:
        load(folder)
    assert str(caught.value) == (
        f"{folder}: 2 of 29 tensors are missing, the first is model.layers.0.mlp.up_proj.weight "
        "of shape [96, 72]"
    )


def test_an_unknown_tensor_is_named(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.update({"model.layers.3.mlp.up_proj.weight": torch.ones(2)}))
    with pytest.raises(InputError, match=r"model.layers.3.mlp.up_proj.weight of shape \[2\] has"):
        load(folder)


def test_a_tensor_of_another_shape_is_named_with_both(folder: Path) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    edit_tensors(folder, lambda t: t.update({name: t[name][:-8].clone()}))
    with pytest.raises(InputError, match=rf"{name} has the shape \[16, 72\].* needs \[24, 72\]"):
        load(folder)


def test_a_quantized_tensor_is_refused(folder: Path) -> None:
    name = "model.norm.weight"
    edit_tensors(folder, lambda t: t.update({name: t[name].to(torch.int8)}))
    with pytest.raises(InputError, match=r"model.norm.weight is torch.int8"):
        load(folder)


def test_buffers_of_old_checkpoints_are_ignored(folder: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(folder, lambda t: t.update({name: torch.ones(4)}))
    load(folder)


def test_a_tied_head_that_is_saved_again_must_be_the_same(folder: Path) -> None:
    table = load_file(folder / WEIGHTS)["model.embed_tokens.weight"]
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": table.clone()}))
    load(folder)
    load(folder, dtype=torch.bfloat16)
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": table + 1}))
    with pytest.raises(InputError, match=r"lm_head.weight differs .* tie_word_embeddings"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "GPT2|architecture LlamaForCausalLM is not supported"),
        ({"model_type": "nobody-knows"}, "nobody-knows"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers"),
    ],
)
def test_a_configuration_that_cannot_be_names_its_file(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    edit_json(folder / "config.json", **changes)
    with pytest.raises(InputError, match=message) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{folder / 'config.json'}: ")
    assert "\n" not in str(caught.value)


def test_broken_files_are_named(folder: Path) -> None:
    generation = folder / "generation_config.json"
    generation.write_text("[")
    with pytest.raises(InputError, match=r"generation_config.json: not a generation config"):
        load(folder)
    generation.unlink()
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="tokenizer: "):
        load(folder)
    (folder / "tokenizer.json").unlink()
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-10])
    with pytest.raises(InputError, match=r"model.safetensors: not a readable safetensors file"):
        load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"neither model.safetensors nor"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json: "):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config.json: no such file"):
        load(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"weight_map": {"a": "gone.safetensors"}}', "names the file gone.safetensors"),
        ('{"weight_map": {"a": "../smol/config.json"}}', "names the file ../smol/config.json"),
        ('{"map": {}}', "no weight_map"),
        ("[]", "no weight_map"),
        ("{", "no weight_map"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(folder: Path, index: str, message: str) -> None:
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(index)
    with pytest.raises(InputError, match=message) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{folder / INDEX}: ")


@pytest.mark.parametrize("name", ["tinny", "some-org/some-model", "pytorch_model.bin"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: no model: neither 'tiny'"):
        load(name)


def test_other_dtypes_and_devices_are_refused() -> None:
    with pytest.raises(InputError, match=r"torch.float64 .* known are float32, bfloat16, float16"):
        load("tiny", dtype=torch.float64)
    with pytest.raises(InputError, match="'gpu'"):
        load("tiny", device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA device"):
            load("tiny", device="cuda")


def test_a_missing_extra_says_how_to_install_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("transformers", "tokenizers"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it then fails
    for model in ("tiny", folder):
        with pytest.raises(InputError, match=r"pip install 'rlkv\[engine\]'"):
            load(model)
