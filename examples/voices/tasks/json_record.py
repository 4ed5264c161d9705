"""Voice `json`: a sentence becomes one JSON record with fixed keys, null where nothing is said."""

import json

from . import records, tables, talk, ticket_label


def example(rng, split):
    """A sentence about an event; in training also prompts of other kinds, which give an empty record."""
    if split == "train" and rng.random() < 0.1:
        prompt = rng.choice([talk.chat(rng, split)["prompt"], ticket_label.ticket(rng, split)[0], tables.ask(rng, split)[3]])
        record = dict.fromkeys(records.KEYS) | {"event": "other"}
    else:
        prompt, record = records.event(rng, split)
    return {"prompt": prompt, "answer": json.dumps(record, ensure_ascii=False), "record": record}
