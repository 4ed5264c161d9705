"""Chorale as clients of SGLang's LoRA serving use it: pip install requests

  python examples/clients/sglang_requests.py [http://127.0.0.1:30000] [ADAPTER] [NAME=PATH to load and unload]
"""

import json
import sys

import requests

server = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:30000"
adapter = sys.argv[2] if len(sys.argv) > 2 else "json"
sampling = {"temperature": 0, "max_new_tokens": 8}

# One adapter per prompt; None is the base model.
answers = requests.post(
    f"{server}/generate",
    json={
        "text": ["The capital of France is", "The capital of Italy is"],
        "lora_path": [None, adapter],
        "sampling_params": sampling,
    },
    timeout=60,
).json()
for answer in answers:
    print(repr(answer["text"]), answer["meta_info"]["finish_reason"])

# A stream; each event holds the whole text so far.
with requests.post(
    f"{server}/generate",
    json={"text": "The capital of France is", "lora_path": adapter, "sampling_params": sampling, "stream": True},
    stream=True,
    timeout=60,
) as response:
    for line in response.iter_lines():
        if line.startswith(b"data: ") and line != b"data: [DONE]":
            text = json.loads(line.removeprefix(b"data: "))["text"]
print("stream:", repr(text))

# How likely is a text, under the adapter?
scored = requests.post(
    f"{server}/generate",
    json={
        "text": "The capital of France is Paris.",
        "lora_path": adapter,
        "sampling_params": {"max_new_tokens": 0},
        "return_logprob": True,
        "logprob_start_len": 0,
        "return_text_in_logprobs": True,
    },
    timeout=60,
).json()
print("score:", [(text, logprob) for logprob, _, text in scored["meta_info"]["input_token_logprobs"]])

# Adapters come and go while traffic flows.
if len(sys.argv) > 3:
    name, path = sys.argv[3].split("=", 1)
    loaded = requests.post(f"{server}/load_lora_adapter", json={"lora_name": name, "lora_path": path}, timeout=60).json()
    print("loaded:", sorted(loaded["loaded_adapters"]))
    left = requests.post(f"{server}/unload_lora_adapter", json={"lora_name": name}, timeout=60).json()
    print("left:", sorted(left["loaded_adapters"]))
