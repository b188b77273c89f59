"""The tokenizer of the model ``tiny``: bytes, some English words, and a ChatML template with tools.

It is the byte-level BPE of GPT-2 with a vocabulary made up here, so that nothing is downloaded.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from rlkv_engine.paged.hugging_face import import_extra

VOCAB_SIZE = 512

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (
    END_OF_TEXT,
    IM_START,
    IM_END,
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)

#: Common words of English and of tool calls. Each start of one, with the space before it, is a
#: token of its own, until the vocabulary is full.
_WORDS = """
the and of to in is that for it with as was on are by this be from or have an they which one you
were all her she there would their we him been has when who will no more if out so up said what its
about than into them can only other time new some could these two may first then do any like my now
tool call name arguments result search file read write query city weather user value true false
over such our man me even most made after also did many before must well back through years where
"""

# Not flagged as special, tool calls survive decoding without special tokens, as servers decode.
_NUM_SPECIAL = 3

CHAT_TEMPLATE = """\
{%- if messages and messages[0].role == 'system' %}
    {%- set system = messages[0].content %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- if tools or system is defined %}
    {{- '<|im_start|>system\\n' }}
    {{- system | default('') }}
    {%- if tools %}
        {{- '\\n\\n# Tools\\n\\nYou may call these functions:\\n<tools>' }}
        {%- for tool in tools %}
            {{- '\\n' + (tool | tojson) }}
        {%- endfor %}
        {{- '\\n</tools>\\n\\nFor each call, answer with a JSON object in <tool_call> tags:\\n' }}
        {{- '<tool_call>\\n{"name": <name>, "arguments": <arguments>}\\n</tool_call>' }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
        {{- '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
        {%- for call in message.tool_calls or [] %}
            {%- set function = call.function or call %}
            {{- '' if loop.first and not message.content else '\\n' }}
            {{- '<tool_call>\\n{"name": ' + (function.name | tojson) + ', "arguments": ' }}
            {%- if function.arguments is string %}
                {{- function.arguments }}
            {%- else %}
                {{- function.arguments | tojson }}
            {%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


@cache
def vocabulary() -> tuple[bytes, ...]:
    """The bytes that each token id stands for; none for the special tokens."""
    tokens = [b""] * len(SPECIAL_TOKENS) + [bytes([byte]) for byte in range(256)]
    tokens += [token for token, _, _ in _merges()]
    return tuple(tokens)


def tiny_tokenizer() -> Any:
    """A transformers tokenizer of ``vocabulary``, with the chat template.

    Raises:
        InputError: transformers or tokenizers is not installed.
    """
    tokenizers = import_extra("tokenizers")
    transformers = import_extra("transformers")
    ids = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
    for i, token in enumerate(vocabulary()[len(SPECIAL_TOKENS) :], len(SPECIAL_TOKENS)):
        ids[_visible(token)] = i
    merges = [(_visible(left), _visible(right)) for _, left, right in _merges()]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS[:_NUM_SPECIAL]))
    tokenizer.add_tokens(
        [tokenizers.AddedToken(t, normalized=False) for t in SPECIAL_TOKENS[_NUM_SPECIAL:]]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=None,
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


@cache
def _merges() -> tuple[tuple[bytes, bytes, bytes], ...]:
    """Tokens of more than one byte, each with the two that it is merged from, in order."""
    merges: dict[bytes, tuple[bytes, bytes]] = {}
    missing = VOCAB_SIZE - len(SPECIAL_TOKENS) - 256
    for word in _WORDS.split():
        spelled = f" {word}".encode()
        for end in range(2, len(spelled) + 1):
            if len(merges) < missing:
                merges.setdefault(spelled[:end], (spelled[: end - 1], spelled[end - 1 : end]))
    return tuple((token, left, right) for token, (left, right) in merges.items())


def _visible(token: bytes) -> str:
    """The printable characters that byte-level BPE writes bytes as (GPT-2, ``encoder.py``)."""
    return "".join(_byte_characters()[byte] for byte in token)


@cache
def _byte_characters() -> tuple[str, ...]:
    themselves = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in themselves]
    return tuple(
        chr(byte) if byte in themselves else chr(256 + others.index(byte)) for byte in range(256)
    )
