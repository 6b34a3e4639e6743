"""A client of OpenAI whose calls are recorded, whatever the code does with it.

Run it with `OPENAI_API_KEY=... python examples/openai_client.py`;
OPENAI_BASE_URL names any server with OpenAI's API, such as vLLM's.
"""

import os

from openai import OpenAI

import genmeter
from genmeter import GenerationMonitor

MODEL = os.environ.get("MODEL", "gpt-4o-mini")

if __name__ == "__main__":
    with GenerationMonitor() as monitor:
        client = monitor.watch(OpenAI())
        question = {"role": "user", "content": "Why is the sky blue? In one sentence."}
        with genmeter.step("ask"):
            answer = client.chat.completions.create(model=MODEL, messages=[question])
        print(answer.choices[0].message.content)
        with genmeter.step("stream"):
            stream = client.chat.completions.create(
                model=MODEL,
                messages=[question],
                stream=True,
                stream_options={"include_usage": True},  # without it the usage is unknown
            )
            for chunk in stream:
                print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="")
        print()
        print(monitor.get_total_token_usage())
