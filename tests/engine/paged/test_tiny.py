from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from rlkv_engine.paged.attention_batch import AttentionBatch, Span
from rlkv_engine.paged.attention_cpu import cpu_attention
from rlkv_engine.paged.llama import Llama
from rlkv_engine.paged.loading import LoadedModel, load_model
from rlkv_engine.paged.tiny import tiny_model
from rlkv_engine.paged.tiny_tokenizer import SPECIAL_TOKENS, VOCAB_SIZE, vocabulary
from tests.engine.paged.paged_run import BLOCK_SIZE, new_arena

TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model("tiny", dtype=torch.float32, device="cpu", attention=cpu_attention)


def greedy(model: Llama, prompt: list[int], num_tokens: int) -> list[int]:
    length = len(prompt) + num_tokens
    table = list(range(-(-length // BLOCK_SIZE)))
    arena = new_arena(model, len(table))
    batch = AttentionBatch.from_spans([], [Span(table, 0, len(prompt))], block_size=BLOCK_SIZE)
    hidden = model(torch.tensor(prompt), torch.arange(len(prompt)), arena, batch)
    answer = [int(model.logits(hidden[-1:]).argmax())]
    for at in range(len(prompt), length - 1):
        batch = AttentionBatch.from_spans([Span(table, at, at + 1)], [], block_size=BLOCK_SIZE)
        hidden = model(torch.tensor(answer[-1:]), torch.tensor([at]), arena, batch)
        answer.append(int(model.logits(hidden).argmax()))
    return answer


@pytest.mark.parametrize("prompt", ["Hello", "What is the weather in the city?", "a" * 50])
def test_answers_wander_and_are_readable(tiny: LoadedModel, prompt: str) -> None:
    """Seen: 105 to 138 different tokens of 300, and no repetition."""
    answer = greedy(tiny.model, tiny.tokenizer(prompt)["input_ids"], 300)  # type: ignore[misc]
    print(len(set(answer)))
    assert len(set(answer)) > 80
    assert len(set(answer[-100:])) > 30
    for period in range(1, 60):
        assert answer[-period:] != answer[-2 * period : -period]
    text = tiny.tokenizer.decode(answer)  # type: ignore[union-attr]
    assert text.isascii()
    assert text.isprintable()


def test_a_seed_gives_the_same_model() -> None:
    cpu = torch.device("cpu")
    first, again, other = (
        tiny_model(cpu_attention, torch.float32, cpu, seed) for seed in (1, 1, 2)
    )
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.embedding, other.embedding)
    half = tiny_model(cpu_attention, torch.bfloat16, cpu, 1)
    assert torch.equal(half.embedding, first.embedding.bfloat16())


def test_the_vocabulary_is_full_and_unique(tiny: LoadedModel) -> None:
    words = vocabulary()[len(SPECIAL_TOKENS) :]
    assert len(vocabulary()) == VOCAB_SIZE == tiny.config.vocab_size == len(tiny.tokenizer)  # type: ignore[arg-type]
    assert len(set(words)) == len(words)
    for i, word in enumerate(words, len(SPECIAL_TOKENS)):
        assert tiny.tokenizer.decode([i]) == word.decode("utf-8", "replace")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text", ["the world", " tool call", "wörld 🌍\n\t", "<tool_call>{}</tool_call>", "", " th th"]
)
def test_text_survives_its_tokens(tiny: LoadedModel, text: str) -> None:
    ids = tiny.tokenizer(text)["input_ids"]  # type: ignore[misc]
    assert tiny.tokenizer.decode(ids) == text  # type: ignore[union-attr]


def test_words_are_single_tokens_and_tags_too(tiny: LoadedModel) -> None:
    ids = tiny.tokenizer(" the tool<tool_call><|im_end|>")["input_ids"]  # type: ignore[misc]
    assert len(ids) == 4
    assert ids[-1] == tiny.config.eos_token_ids[0] == tiny.tokenizer.eos_token_id  # type: ignore[union-attr]
    # Tags of tool calls survive where the ends of turns are dropped.
    assert tiny.tokenizer.decode(ids, skip_special_tokens=True) == " the tool<tool_call>"  # type: ignore[union-attr]


def test_the_chat_template_knows_tools(tiny: LoadedModel) -> None:
    call = {"type": "function", "function": {"name": "search", "arguments": {"q": "rain"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "dry"},
    ]
    template = tiny.tokenizer.apply_chat_template  # type: ignore[union-attr]
    text = template(messages, tools=TOOLS, add_generation_prompt=True, tokenize=False)
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n\n")
    assert '{"type": "function", "function": {"name": "search"' in text
    assert text.endswith(
        "<|im_start|>user\nWeather?<|im_end|>\n"
        "<|im_start|>assistant\n<tool_call>\n"
        '{"name": "search", "arguments": {"q": "rain"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\ndry\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    # A server extends a conversation: an earlier prompt is the beginning of the next.
    assert text.startswith(template(messages[:2], tools=TOOLS, tokenize=False))
    plain = template(messages[1:2], tokenize=False, add_generation_prompt=True)
    assert plain == "<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n"


def test_transformers_is_imported_only_to_load() -> None:
    program = (
        "import sys, rlkv_engine.paged.loading\n"
        "print(*{'transformers', 'tokenizers', 'gguf', 'accelerate'} & set(sys.modules))"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == ""
