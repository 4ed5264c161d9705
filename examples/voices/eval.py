#!/usr/bin/env python3
"""Measures the voices through a running Chorale, with and without their adapter.

    python3 eval.py --url http://127.0.0.1:30000 [--voice json sql] [--told] [--json]

Needs Python 3 and nothing else. Every held-out prompt goes out as one chat
message, greedily decoded, to the adapter and to the base; requests of all
voices are in flight together, so the server answers them in mixed batches.
With --check the exit status is 1 unless every voice has at least 85 % right
with its adapter and at most 20 % without.
"""

import argparse
import concurrent.futures
import json
import sys
import time
import urllib.error
import urllib.request

import checks
import data

MAX_TOKENS = 96  # the longest right answer has 73
WITH, WITHOUT = 0.85, 0.20


def call(url, path, body=None, timeout=600):
    """The decoded JSON answer of a GET, or of a POST of `body`."""
    payload = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url.rstrip("/") + path, payload, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        detail = error.read().decode(errors="replace")[:500]
        raise SystemExit(f"{path}: HTTP {error.code}: {detail}") from None
    except OSError as error:  # refused, reset, timed out
        raise SystemExit(f"{url}{path}: {error}") from None


def base_model(url):
    """The id of the served model that is no adapter."""
    for model in call(url, "/v1/models")["data"]:
        if not model.get("parent") and model["id"] not in checks.CHECKS:
            return model["id"]
    raise SystemExit("the server names no base model; pass --base")


def chat(url, model, prompt):
    """The model's greedy answer to one user message."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": MAX_TOKENS}
    return call(url, "/v1/chat/completions", body)["choices"][0]["message"]["content"]


def plan(args):
    """Every request as (voice, column, item, model, prompt), voices interleaved."""
    base = args.base or base_model(args.url)
    rows = []
    for voice in args.voice:
        for i, item in enumerate(data.load_heldout(voice)[:args.items]):
            rows.append((i, voice, "adapter", item, voice, item["prompt"]))
            rows.append((i, voice, "base", item, base, item["prompt"]))
            if args.told:
                rows.append((i, voice, "base told", item, base, f"{checks.BRIEF[voice]}\n\n{item['prompt']}"))
    return [row[1:] for row in sorted(rows, key=lambda row: row[0])]


def measure(args):
    """{voice: {column: {"right", "of", "wrong"}}}."""
    scores = {}

    def one(request):
        voice, column, item, model, prompt = request
        answer = chat(args.url, model, prompt)
        return voice, column, item, answer, checks.CHECKS[voice](item, answer)

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for voice, column, item, answer, why in pool.map(one, plan(args)):
            score = scores.setdefault(voice, {}).setdefault(column, {"right": 0, "of": 0, "wrong": []})
            score["of"] += 1
            score["right"] += not why
            if why and column == "adapter":
                score["wrong"].append({"prompt": item["prompt"], "answer": answer, "why": why})
    return scores


def table(scores):
    """The scores as a text table."""
    columns = list(next(iter(scores.values())))
    lines = [f"{'voice':8}" + "".join(f"{column:>16}" for column in columns)]
    for voice, score in scores.items():
        cells = (f"{s['right']}/{s['of']} {100 * s['right'] / s['of']:4.0f} %" for s in score.values())
        lines.append(f"{voice:8}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def plain(scores):
    """Whether every voice differs as plainly as it should."""
    share = lambda score: score["right"] / score["of"]
    return all(share(s["adapter"]) >= WITH and share(s["base"]) <= WITHOUT for s in scores.values())


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:30000", help="where Chorale serves (http://127.0.0.1:30000)")
    parser.add_argument("--voice", nargs="*", choices=checks.CHECKS, default=list(checks.CHECKS), help="which voices (all)")
    parser.add_argument("--base", help="name of the base model (asked of /v1/models)")
    parser.add_argument("--items", type=int, default=50, help="held-out prompts a voice (50)")
    parser.add_argument("--jobs", type=int, default=16, help="requests in flight (16)")
    parser.add_argument("--told", action="store_true", help="also ask the base with the task explained in the prompt")
    parser.add_argument("--json", action="store_true", help="print JSON, with the wrong answers, instead of a table")
    parser.add_argument("--check", action="store_true", help="fail unless the difference is plain")
    args = parser.parse_args(argv)
    start = time.time()
    scores = measure(args)
    print(json.dumps(scores, ensure_ascii=False, indent=1) if args.json else table(scores))
    print(f"{sum(s['of'] for score in scores.values() for s in score.values())} requests in {time.time() - start:.0f} s", file=sys.stderr)
    return 1 if args.check and not plain(scores) else 0


if __name__ == "__main__":
    sys.exit(main())
