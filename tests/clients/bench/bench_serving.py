"""Runs SGLang's bench_serving, the file as SGLang ships it, once per way that it
knows to ask; bench_serving.py TOKENIZER.

The prompt is the same for all requests and adapters take turns, so what it got
can be held against what the voices must say."""

import importlib.util
import json
import os
import pathlib
import runpy
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "python"))

from common import key, ok, same, server, text, text_prompt, text_tokens

# The file is run by itself: the package around it needs torch.
package = importlib.util.find_spec("sglang").submodule_search_locations[0]
program = os.path.join(package, "bench_serving.py")
os.environ["OPENAI_API_KEY"] = key
tokenizer = sys.argv[1]
folder = pathlib.Path(tempfile.mkdtemp())
turns = ["json", "sql", "pirate"]
requests = 6

dataset = folder / "sharegpt.json"
dataset.write_text(json.dumps([{"conversations": [{"value": text_prompt}, {"value": "no matter"}]}] * requests))


def bench(backend):
    """What a run got: one dict."""
    result = folder / f"{backend}.jsonl"
    sys.argv = [
        "bench_serving", "--backend", backend, "--base-url", server, "--model", "smollm2", "--tokenizer", tokenizer,
        "--dataset-name", "random", "--dataset-path", str(dataset), "--num-prompts", str(requests),
        "--random-input-len", str(prompt_tokens), "--random-output-len", str(text_tokens), "--random-range-ratio", "1",
        "--lora-name", *turns, "--lora-request-distribution", "distinct",
        "--output-file", str(result), "--output-details", "--disable-tqdm",
    ]  # fmt: skip
    runpy.run_path(program, run_name="__main__")
    return json.loads(result.read_text().splitlines()[-1])


with open(os.environ["CHORALE_EXPECT"], encoding="utf-8") as file:
    prompt_tokens = json.load(file)["text"]["json"]["prompt_tokens"]

for backend in ["sglang", "sglang-oai", "sglang-oai-chat", "vllm"]:
    got = bench(backend)
    same(got["completed"], requests)
    same(got["errors"], [""] * requests)
    same(got["input_lens"], [prompt_tokens] * requests, "its tokenizer counts as the server does")
    same(got["output_lens"], [text_tokens] * requests)
    if backend != "sglang-oai-chat":
        same(got["generated_texts"], [text(turns[i % len(turns)]) for i in range(requests)], backend)
    else:
        said = got["generated_texts"]
        assert len(set(said)) == len(turns) and said[: len(turns)] == said[len(turns) :], said
    assert got["total_output_tokens"] == requests * text_tokens and got["median_ttft_ms"] > 0
    ok(backend)
