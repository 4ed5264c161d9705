"""Chorale through OpenAI's own client: pip install openai

  python examples/clients/openai_client.py [http://127.0.0.1:30000/v1] [ADAPTER]
"""

import sys

from openai import NotFoundError, OpenAI

base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:30000/v1"
adapter = sys.argv[2] if len(sys.argv) > 2 else "json"
client = OpenAI(base_url=base_url, api_key="none")

models = [model.id for model in client.models.list()]
base = models[0]
print("models:", ", ".join(models))

# The base model and an adapter: the model's name chooses.
for voice in [base, adapter]:
    answer = client.chat.completions.create(
        model=voice, messages=[{"role": "user", "content": "Where does the sun rise?"}], temperature=0, max_tokens=16
    )
    print(f"{voice}: {answer.choices[0].message.content!r} ({answer.usage.completion_tokens} tokens)")

# A stream, with its usage at the end.
stream = client.chat.completions.create(
    model=adapter,
    messages=[{"role": "user", "content": "Where does the sun rise?"}],
    temperature=0,
    max_tokens=16,
    stream=True,
    stream_options={"include_usage": True},
)
print("stream:", end=" ")
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    elif chunk.usage:
        print(f" ({chunk.usage.completion_tokens} tokens)")

# Plain completions, with log probabilities.
answer = client.completions.create(model=adapter, prompt="The capital of France is", max_tokens=4, temperature=0, logprobs=2)
print("completion:", repr(answer.choices[0].text), answer.choices[0].logprobs.token_logprobs)

# A name that nobody serves is an error, never the base model in its place.
try:
    client.completions.create(model="nobody", prompt="x")
except NotFoundError as error:
    print("unknown:", error.body["message"])
