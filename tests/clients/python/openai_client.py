"""OpenAI's own client for Python."""

import asyncio

import openai
from openai import AsyncOpenAI

from common import admin_key, base, chat, expect, key, long, messages, ok, prompt, raises, same, server, short, short_tokens, text, text_prompt, text_tokens, voices

# doc: chat
from openai import OpenAI

client = OpenAI(base_url=f"{server}/v1", api_key=key)
answer = client.chat.completions.create(
    model="pirate", messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=96
)
print(answer.choices[0].message.content)
# doc: end
same(answer.choices[0].message.content, chat("pirate"))
same(answer.choices[0].finish_reason, "stop")
same(answer.model, "pirate")
same(answer.usage.prompt_tokens, expect["chat"]["pirate"]["prompt_tokens"])
same(answer.usage.completion_tokens, expect["chat"]["pirate"]["completion_tokens"])
same(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
ok("chat")

# doc: stream
stream = client.chat.completions.create(
    model="json",
    messages=[{"role": "user", "content": prompt}],
    temperature=0,
    max_tokens=96,
    stream=True,
    stream_options={"include_usage": True},
)
said, usage = "", None
for chunk in stream:
    if chunk.choices:
        said += chunk.choices[0].delta.content or ""
    usage = chunk.usage or usage
print(said, usage.completion_tokens)
# doc: end
same(said, chat("json"))
same(usage.completion_tokens, expect["chat"]["json"]["completion_tokens"])
ok("stream")

with client.chat.completions.stream(model="sql", messages=messages, temperature=0, max_tokens=96) as events:
    same("".join(e.delta for e in events if e.type == "content.delta"), chat("sql"))
    same(events.get_final_completion().choices[0].message.content, chat("sql"))
ok("stream helper")

cards = {card.id: card for card in client.models.list()}
same([name for name in voices if name not in cards], [])
same(client.models.retrieve("sql").id, "sql")
same(cards["sql"].parent, base)
ok("models")


def complete(model, **more):
    return client.completions.create(model=model, prompt=text_prompt, temperature=0, max_tokens=text_tokens, extra_body={"ignore_eos": True}, **more)


for voice in voices:
    same(complete(voice).choices[0].text, text(voice), voice)
same(complete(f"{base}:json").choices[0].text, text("json"))
both = client.completions.create(
    model="json", prompt=[text_prompt, text_prompt], temperature=0, max_tokens=text_tokens, extra_body={"ignore_eos": True, "lora_path": ["json", "sql"]}
)
same([c.text for c in both.choices], [text("json"), text("json")], "model beats lora_path")
same("".join(c.choices[0].text for c in complete("json", stream=True)), text("json"))
ok("completions")

echoed = complete("label", echo=True, logprobs=2).choices[0]
same(echoed.text, text_prompt + text("label"))
same("".join(echoed.logprobs.tokens), echoed.text)
assert echoed.logprobs.token_logprobs[0] is None and all(p <= 0 for p in echoed.logprobs.token_logprobs[1:])
chosen = client.chat.completions.create(model="label", messages=messages, temperature=0, max_tokens=96, logprobs=True, top_logprobs=3)
tokens = chosen.choices[0].logprobs.content
same("".join(t.token for t in tokens if not t.token.startswith("<|")), chat("label"))
for token in tokens:
    same(len(token.top_logprobs), 3)
    same(token.top_logprobs[0].logprob, token.logprob, "greedy takes the most likely")
ok("logprobs")


def sample(seed):
    answer = client.chat.completions.create(model=base, messages=messages, n=3, seed=seed, temperature=1.5, max_tokens=12)
    same([c.index for c in answer.choices], [0, 1, 2])
    return [c.message.content for c in answer.choices]


first = sample(7)
same(sample(7), first, "same seed")
assert len(set(first)) > 1 and sample(8) != first
ok("n and seed")

stop = chat("pirate")[8:14]
stopped = client.chat.completions.create(model="pirate", messages=messages, temperature=0, max_tokens=96, stop=[stop]).choices[0]
same((stopped.message.content, stopped.finish_reason), (chat("pirate").split(stop)[0], "stop"))
cut = client.chat.completions.create(model="json", messages=messages, temperature=0, max_completion_tokens=5)
same((cut.choices[0].finish_reason, cut.usage.completion_tokens), ("length", 5))
assert chat("json").startswith(cut.choices[0].message.content)
forced = client.completions.create(model="json", prompt=text_prompt, max_tokens=1, temperature=0, logit_bias={"330": 100}, extra_body={"return_token_ids": True})
same(forced.choices[0].token_ids, [330])
ok("stop, length, bias")

# doc: errors
try:
    client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": prompt}])
except openai.NotFoundError as error:  # the base model never answers in an adapter's place
    print(error.body["message"], error.code)
# doc: end
error = raises(openai.NotFoundError, lambda: client.chat.completions.create(model="nobody", messages=messages), "nobody")
same((error.status_code, error.code), (404, "model_not_found"))
raises(openai.NotFoundError, lambda: client.models.retrieve("nobody"), "nobody")
ok("unknown model")

ask = client.chat.completions.create
error = raises(openai.BadRequestError, lambda: ask(model="json", messages=messages, temperature=-1), "temperature")
same(error.param, "temperature")
raises(openai.BadRequestError, lambda: ask(model="json", messages=messages, top_p=1.5), "top_p")
raises(openai.BadRequestError, lambda: ask(model="json", messages=[]), "messages")
raises(openai.BadRequestError, lambda: ask(model="json", messages=messages, n=0), "n")
tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
same(raises(openai.BadRequestError, lambda: ask(model="json", messages=messages, tools=[tool]), "tools").code, "unsupported_parameter")
schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
raises(openai.BadRequestError, lambda: ask(model="json", messages=messages, response_format=schema), "response_format")
raises(openai.BadRequestError, lambda: ask(model="json", messages=[{"role": "user", "content": "a " * 9000}]), "context")
ok("bad requests")

error = raises(openai.AuthenticationError, lambda: OpenAI(base_url=f"{server}/v1", api_key="wrong").models.list())
same(error.status_code, 401)
same(OpenAI(base_url=f"{server}/v1", api_key=admin_key).models.retrieve("json").id, "json")
ok("keys")

raw = client.chat.completions.with_raw_response.create(
    model="label", messages=messages, temperature=0, max_tokens=96, extra_headers={"X-Request-Id": "from-python"}
)
same(raw.headers["X-Request-Id"], "from-python")
assert raw.headers["X-Chorale-Adapter"].startswith("label@1;sha256:")
ok("headers")

stream = client.completions.create(model="pirate", prompt=text_prompt, max_tokens=long, stream=True, extra_body={"ignore_eos": True})
next(iter(stream))
stream.close()
ok("abort")


async def together():
    async with AsyncOpenAI(base_url=f"{server}/v1", api_key=key) as many:

        async def one(voice, streamed):
            answer = await many.chat.completions.create(model=voice, messages=messages, temperature=0, max_tokens=short_tokens, stream=streamed)
            if not streamed:
                return answer.choices[0].message.content
            return "".join([c.choices[0].delta.content or "" async for c in answer if c.choices])

        jobs = [(voice, i % 2 == 0) for i, voice in enumerate(voices)]
        for (voice, _), said in zip(jobs, await asyncio.gather(*[one(*job) for job in jobs])):
            same(said, short(voice), voice)


asyncio.run(together())
ok("together")
