from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlkv.real_vllm.model_folder import write_model_folder

transformers: Any = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def test_a_seed_gives_the_same_model(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_model_folder(tmp_path / name, SMALL, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_its_answers_are_text_that_does_not_end(tmp_path: Path) -> None:
    write_model_folder(tmp_path, SMALL)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt = tokenizer("the weather in the city", return_tensors="pt")
    with torch.no_grad():
        answer = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0]
    new = answer[prompt["input_ids"].shape[1] :]
    assert len(new) == 24
    assert tokenizer.decode(new).isprintable()
    assert len(set(new.tolist())) > 1


def test_its_template_offers_tools(tmp_path: Path) -> None:
    write_model_folder(tmp_path, SMALL)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tool = {"type": "function", "function": {"name": "search", "parameters": {}}}
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}],
        tools=[tool],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert '"name": "search"' in text and text.endswith("<|im_start|>assistant\n")
    assert len(tokenizer("<tool_call>").input_ids) == 1
