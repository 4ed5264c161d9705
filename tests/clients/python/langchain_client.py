"""LangChain's ChatOpenAI."""

import openai
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage

from common import base, chat, expect, key, messages, ok, prompt, same, server, short, short_tokens, text, text_prompt, text_tokens, voices

# doc: chat
from langchain_openai import ChatOpenAI

pirate = ChatOpenAI(model="pirate", base_url=f"{server}/v1", api_key=key, temperature=0, max_tokens=96)
print(pirate.invoke(prompt).content)
for chunk in pirate.stream(prompt):
    print(chunk.content, end="")
# doc: end
print()


def voice_of(name, **more):
    usual = {"api_key": key, "temperature": 0, "max_tokens": 96, "max_retries": 0}
    return ChatOpenAI(model=name, base_url=f"{server}/v1", **(usual | more))


answer = pirate.invoke(prompt)
same(answer.content, chat("pirate"))
same(answer.usage_metadata["output_tokens"], expect["chat"]["pirate"]["completion_tokens"])
same(answer.response_metadata["finish_reason"], "stop")
ok("invoke")

whole = None
for chunk in voice_of("json", stream_usage=True).stream(prompt):
    whole = chunk if whole is None else whole + chunk
same(whole.content, chat("json"))
same(whole.usage_metadata["output_tokens"], expect["chat"]["json"]["completion_tokens"])
ok("stream")

# doc: batch
from langchain_core.runnables import RunnableParallel

ask = RunnableParallel({name: ChatOpenAI(model=name, base_url=f"{server}/v1", api_key=key, temperature=0, max_tokens=96) for name in ["json", "sql", "label"]})
for name, said in ask.invoke(prompt).items():
    print(name, said.content)
# doc: end
for name, said in RunnableParallel({name: voice_of(name, max_tokens=short_tokens) for name in voices}).invoke(prompt).items():
    same(said.content, short(name), name)
ok("together")

same([a.content for a in voice_of("label").batch([prompt, messages, [("human", prompt)]])], [chat("label")] * 3)
ok("batch")

scored = voice_of("label").bind(logprobs=True, top_logprobs=2).invoke(prompt)
assert all(len(t["top_logprobs"]) == 2 for t in scored.response_metadata["logprobs"]["content"])
stop = chat("pirate")[8:14]
same(voice_of("pirate").invoke(prompt, stop=[stop]).content, chat("pirate").split(stop)[0])


def sample():
    drawn = voice_of(base, n=3, seed=5, temperature=1.5, max_tokens=8)
    return [g.text for g in drawn.generate([[HumanMessage(prompt)]]).generations[0]]


first = sample()
same(sample(), first)
assert len(first) == 3 and len(set(first)) > 1
ok("logprobs, stop, n, seed")

from langchain_openai import OpenAI as Completions

done = Completions(model="sql", base_url=f"{server}/v1", api_key=key, temperature=0, max_tokens=text_tokens, extra_body={"ignore_eos": True})
same(done.invoke(text_prompt), text("sql"))
same("".join(done.stream(text_prompt)), text("sql"))
ok("completions")


def kind(error):
    return next(k for k in type(error).__mro__ if k.__module__.startswith("openai"))


def fails(expected, model):
    try:
        model.invoke(prompt)
    except openai.APIStatusError as error:
        same(kind(error), expected)
    else:
        raise AssertionError(f"no {expected}")


fails(openai.NotFoundError, voice_of("nobody"))
fails(openai.BadRequestError, voice_of(base, top_p=7))
fails(openai.AuthenticationError, voice_of(base, api_key="wrong"))
try:
    voice_of("json").invoke("a " * 9000)
except ContextOverflowError as error:
    assert "context" in str(error)
else:
    raise AssertionError("no ContextOverflowError")
ok("errors")
