"""LiteLLM, which speaks to Chorale as to OpenAI (provider openai/) or vLLM (hosted_vllm/)."""

import asyncio

from common import base, chat, expect, key, long, messages, ok, prompt, raises, same, server, short, short_tokens, text, text_prompt, text_tokens, voices

# doc: chat
import litellm

answer = litellm.completion(
    model="openai/pirate",
    api_base=f"{server}/v1",
    api_key=key,
    messages=[{"role": "user", "content": prompt}],
    temperature=0,
    max_tokens=96,
)
print(answer.choices[0].message.content)
# doc: end
litellm.suppress_debug_info = True
same(answer.choices[0].message.content, chat("pirate"))
same(answer.usage.completion_tokens, expect["chat"]["pirate"]["completion_tokens"])
ok("chat")

at = {"api_base": f"{server}/v1", "api_key": key}
greedy = at | {"messages": messages, "temperature": 0, "max_tokens": 96}

said, usage = "", None
for chunk in litellm.completion(model="openai/json", stream=True, stream_options={"include_usage": True}, **greedy):
    said += chunk.choices[0].delta.content or "" if chunk.choices else ""
    usage = getattr(chunk, "usage", None) or usage
same(said, chat("json"))
same(usage.completion_tokens, expect["chat"]["json"]["completion_tokens"])
ok("stream")

same(litellm.completion(model="hosted_vllm/sql", **greedy).choices[0].message.content, chat("sql"))
ok("hosted_vllm")

done = litellm.text_completion(
    model="text-completion-openai/json", prompt=text_prompt, temperature=0, max_tokens=text_tokens, extra_body={"ignore_eos": True}, **at
)
same(done.choices[0].text, text("json"))
ok("text completion")

many = litellm.completion(model=f"openai/{base}", messages=messages, n=2, seed=3, temperature=1.5, max_tokens=8, **at)
same(len(many.choices), 2)
again = litellm.completion(model=f"openai/{base}", messages=messages, n=2, seed=3, temperature=1.5, max_tokens=8, **at)
same([c.message.content for c in again.choices], [c.message.content for c in many.choices])
assert many.choices[0].message.content != many.choices[1].message.content
scored = litellm.completion(model="openai/label", logprobs=True, top_logprobs=2, **greedy).choices[0]
assert all(len(t["top_logprobs"]) == 2 for t in scored.logprobs["content"])
ok("n, seed, logprobs")


async def together():
    jobs = [litellm.acompletion(model=f"openai/{voice}", **(greedy | {"max_tokens": short_tokens})) for voice in voices]
    for voice, done in zip(voices, await asyncio.gather(*jobs)):
        same(done.choices[0].message.content, short(voice), voice)


asyncio.run(together())
ok("together")

# litellm's own classes, from the status and the body.
raises(litellm.NotFoundError, lambda: litellm.completion(model="openai/nobody", **greedy), "nobody")
ok("unknown model")
raises(litellm.BadRequestError, lambda: litellm.completion(model="openai/json", messages=messages, top_p=7, **at), "top_p")
raises(litellm.ContextWindowExceededError, lambda: litellm.completion(model="openai/json", messages=[{"role": "user", "content": "a " * 9000}], **at))
ok("bad requests")
raises(litellm.AuthenticationError, lambda: litellm.completion(model="openai/json", **(greedy | {"api_key": "wrong"})))
ok("keys")

stream = litellm.completion(model=f"openai/{base}", messages=messages, max_tokens=long, stream=True, extra_body={"ignore_eos": True}, **at)
next(iter(stream))
stream.completion_stream.response.close()
ok("abort")
