"""What the scripts for Python share: where the server is, and what it must say."""

import json
import os

server = os.environ["CHORALE_HTTP"]
grpc_address = os.environ["CHORALE_GRPC"]
key = os.environ["CHORALE_KEY"]
admin_key = os.environ["CHORALE_ADMIN_KEY"]
source = os.environ["CHORALE_SOURCE"]  # an adapter that is not loaded yet

with open(os.environ["CHORALE_EXPECT"], encoding="utf-8") as file:
    expect = json.load(file)

prompt = expect["prompt"]
text_prompt = expect["text_prompt"]
voices = expect["voices"]
base = voices[0]
messages = [{"role": "user", "content": prompt}]
long = 1500  # tokens that nobody waits for


def ok(name):
    """One behaviour was seen; the test has the list of all."""
    print("ok", name, flush=True)


def same(got, want, what=""):
    assert got == want, f"{what}: {got!r}, want {want!r}"


def chat(voice):
    """The voice's greedy answer to the prompt."""
    return expect["chat"][voice]["text"]


def short(voice):
    """The first short_tokens tokens of it."""
    return expect["short"][voice]["text"]


def text(voice):
    """The voice's greedy continuation of the text, text_tokens long."""
    return expect["text"][voice]["text"]


text_tokens = expect["text_tokens"]
short_tokens = expect["short_tokens"]


def raises(kind, call, *words):
    """call must raise exactly this kind of error, and say the words."""
    try:
        call()
    except kind as error:
        assert type(error) is kind, f"{type(error)}, want {kind}"
        for word in words:
            assert word in str(error), f"{error!r} does not say {word!r}"
        return error
    raise AssertionError(f"no {kind.__name__}")
