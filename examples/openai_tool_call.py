"""An agent with one tool, through the openai client, against ``rlkv engine serve``.

    rlkv engine serve &
    python examples/openai_tool_call.py http://127.0.0.1:8000/v1

While the tool runs, the server has the session paused; the next request goes on with its KV.
"""

import json
import sys

from openai import OpenAI

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def weather(city: str) -> str:
    """The tool."""
    return f"Rain in {city}, 12 degrees."


def main(
    base_url: str, api_key: str = "none", question: str = "What is the weather in Oslo?"
) -> str:
    """Asks, calls the tool as often as the model wants, up to four times, and returns the end."""
    client = OpenAI(base_url=base_url, api_key=api_key)
    model = client.models.list().data[0].id
    messages = [{"role": "user", "content": question}]
    for _ in range(5):
        # Any name of your own does for the session; without one it is known by its messages.
        answer = client.chat.completions.create(
            model=model,
            messages=messages,
            tools=[WEATHER],
            max_tokens=200,
            temperature=0,
            extra_body={"session_id": "example"},
        )
        message, usage = answer.choices[0].message, answer.usage
        cached = usage.prompt_tokens_details.cached_tokens
        print(f"{usage.prompt_tokens} tokens of prompt, of which {cached} were still there")
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            result = weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    print(message.content)
    return message.content


if __name__ == "__main__":
    main(*sys.argv[1:])
