#!/usr/bin/env python3
"""Training and held-out data of the voices, deterministic by seed; standard library only.

    python3 data.py --heldout           write heldout/<voice>.jsonl anew
    python3 data.py --show sql --n 5    print examples
"""

import argparse
import json
import pathlib
import random

from tasks import iso_date, json_record, pirate_speech, sql_query, ticket_label

TASKS = {"json": json_record, "sql": sql_query, "label": ticket_label, "pirate": pirate_speech, "date": iso_date}
HELDOUT = pathlib.Path(__file__).parent / "heldout"
HELDOUT_SEED = 2026


def stream(voice, seed, split, exclude=frozenset()):
    """Endless examples of a voice, without prompts in `exclude`."""
    rng = random.Random(f"{voice}/{split}/{seed}")
    while True:
        item = TASKS[voice].example(rng, split)
        if item["prompt"] not in exclude:
            yield item


def sample(voice, seed, split, n):
    """`n` examples of distinct prompts."""
    seen, items = set(), []
    for item in stream(voice, seed, split, seen):
        seen.add(item["prompt"])
        items.append(item)
        if len(items) == n:
            return items


def load_heldout(voice):
    """The committed held-out items of a voice."""
    with open(HELDOUT / f"{voice}.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heldout", action="store_true", help="write heldout/*.jsonl")
    parser.add_argument("--show", choices=TASKS, help="print examples of a voice")
    parser.add_argument("--split", choices=["train", "heldout"], default="train")
    parser.add_argument("--n", type=int, default=50, help="how many (50)")
    parser.add_argument("--seed", type=int, default=HELDOUT_SEED)
    args = parser.parse_args()
    if args.show:
        for item in sample(args.show, args.seed, args.split, args.n):
            print(f"{item['prompt']}\n    → {item['answer']}")
    if args.heldout:
        HELDOUT.mkdir(exist_ok=True)
        for voice in TASKS:
            with open(HELDOUT / f"{voice}.jsonl", "w", encoding="utf-8") as out:
                for item in sample(voice, args.seed, "heldout", args.n):
                    out.write(json.dumps(item, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
