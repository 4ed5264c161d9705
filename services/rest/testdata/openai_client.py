"""Drives a server of scripted answers with OpenAI's own Python client.

usage: openai_client.py BASE_URL
"""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="key", max_retries=0)
user = [{"role": "user", "content": "hi"}]


def same(got, want):
    assert got == want, f"got {got!r}, want {want!r}"


# Models, with names that need escaping.
same([m.id for m in client.models.list()], ["tiny", "/abs/path", "a", "b:c"])
for name in ("tiny", "a", "b:c", "/abs/path"):
    same(client.models.retrieve(name).id, name)

# Chats: whole, several, streamed with usage.
chat = client.chat.completions.create(model="a", messages=user, logprobs=True, top_logprobs=2, n=2)
same([c.message.content for c in chat.choices], ["[a]Hello world"] * 2)
same(chat.choices[0].finish_reason, "stop")
same(chat.choices[0].logprobs.content[0].token, "Hello")
same(len(chat.choices[0].logprobs.content[0].top_logprobs), 2)
same(chat.usage.completion_tokens, 6)

chunks = list(client.chat.completions.create(
    model="tiny:b:c", messages=user, stream=True, stream_options={"include_usage": True}))
same(chunks[0].choices[0].delta.role, "assistant")
same("".join(c.choices[0].delta.content or "" for c in chunks if c.choices), "[b:c]Hello world")
same([c.choices[0].finish_reason for c in chunks if c.choices][-1], "stop")
same(chunks[-1].choices, [])
same(chunks[-1].usage.total_tokens, chunks[-1].usage.prompt_tokens + 3)

with client.chat.completions.stream(model="a", messages=user) as s:
    for _ in s:
        pass
    same(s.get_final_completion().choices[0].message.content, "[a]Hello world")

# Completions: lists, echo, logprobs, lora_path, streams.
done = client.completions.create(
    model="tiny", prompt=["x", "y"], max_tokens=2, logprobs=1, echo=True, extra_body={"lora_path": ["a", None]})
same([c.text for c in done.choices], ["x[a]Hello world", "yHello world"])
same(done.choices[1].logprobs.tokens[-2:], ["Hello", " world"])
same("".join(c.choices[0].text for c in client.completions.create(model="a", prompt=[104, 105], stream=True)), "[a]Hello world")


# Errors arrive as the client's own exceptions.
def raises(kind, **want):
    def check(call):
        try:
            call()
        except kind as e:
            for name, value in want.items():
                same(getattr(e, name), value)
            return
        raise AssertionError(f"no {kind}")
    return check


raises(openai.NotFoundError, code="model_not_found", param="model")(
    lambda: client.chat.completions.create(model="nope", messages=user))
raises(openai.BadRequestError, code="invalid_value", param="temperature", type="invalid_request_error")(
    lambda: client.chat.completions.create(model="a", messages=user, temperature=-1))
raises(openai.BadRequestError, code="unsupported_parameter", param="tools")(
    lambda: client.chat.completions.create(model="a", messages=user, tools=[{"type": "function", "function": {"name": "f"}}]))
raises(openai.AuthenticationError, code="invalid_api_key")(
    lambda: client.with_options(api_key="wrong").models.list())
raises(openai.APIError, code="worker_lost")(
    lambda: list(client.completions.create(model="a", prompt="fail", stream=True)))
print("ok", openai.__version__)
