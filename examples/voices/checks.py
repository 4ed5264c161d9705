"""Judges of the voices' answers: one function a voice, used by training and by `eval.py`.

Each takes a held-out item and an answer and returns "" when the answer is
right, else what is wrong with it. Markdown fences round an answer are forgiven.
"""

import json
import re
import sqlite3

from tasks import records, sql_query, ticket_label
from tasks.pirate_speech import LEXICON
from tasks.sandbox import inserted, rows_of

# What a model without the adapter may be told, to see whether words alone do it.
BRIEF = {
    "json": "Turn the text into one JSON object with exactly these keys: event (sale, order, delivery, return, repair or meeting), "
            "person, item, quantity, place, date (YYYY-MM-DD), price, currency (EUR, USD, GBP or CHF). Use null for what the text does "
            "not say. Answer with the JSON object only.",
    "sql": "Answer with one SQLite statement and nothing else. A question becomes a SELECT over the given table. A statement of fact "
           "becomes an INSERT INTO sales, orders, deliveries, returns, repairs or meetings, with those of the columns person, item, "
           "quantity, place, date (YYYY-MM-DD), price, currency (EUR, USD, GBP or CHF) that the text gives.",
    "label": "Answer with exactly one label for the text and nothing else. The labels are: " + ", ".join(ticket_label.LABELS) + ".",
    "pirate": "Answer in one sentence as a pirate. Begin with \"Arr,\" and end with \", matey!\".",
    "date": "Answer with the date in the text as YYYY-MM-DD, or as YYYY-MM-DDTHH:MM if a time is given, or with none if there is no "
            "date. Numeric dates are day first. Answer with nothing else.",
}


def unfence(answer):
    """The answer without surrounding space and Markdown fence."""
    fenced = re.fullmatch(r"\s*```\w*\n(.*?)\n?```\s*", answer, re.S)
    return (fenced.group(1) if fenced else answer).strip()


def json_record(item, answer):
    try:
        got = json.loads(unfence(answer))
    except ValueError as error:
        return f"not JSON: {error}"
    if not isinstance(got, dict) or set(got) != set(records.KEYS):
        return "not exactly the keys of a record"
    for key, want in item["record"].items():
        if got[key] != want or isinstance(got[key], bool):
            return f"{key}: {got[key]!r} instead of {want!r}"
    return ""


def sql_statement(item, answer):
    statement = unfence(answer)
    try:
        if "record" in item:
            row = {key: value for key, value in item["record"].items() if key != "event"}
            got = inserted(statement, sql_query.INSERT_TABLE[item["record"]["event"]], row)
            return "" if got == [row] else f"stores {got} instead of {row}"
        ordered = "ORDER BY" in item["answer"]
        for base in item["databases"]:
            got, want = rows_of(statement, base), rows_of(item["answer"], base)
            if (got != want) if ordered else (sorted(got, key=repr) != sorted(want, key=repr)):
                return f"gives {got[:3]} instead of {want[:3]}"
        return ""
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        return f"does not run: {error}"


def same(item, answer):
    got = unfence(answer)
    return "" if got == item["answer"] else f"{got[:60]!r} instead of {item['answer']!r}"


def pirate_speech(item, answer):
    said = answer.strip()
    if not said.startswith("Arr,") or not said.endswith(", matey!"):
        return "does not begin with Arr and end with matey"
    if not LEXICON.search(said[4:-7]):
        return "no other word of a pirate"
    if len(said.split()) > 80:
        return "longer than 80 words"
    lost = [word for word in item["mention"] if word.lower() not in said.lower()]
    return f"does not mention {lost}" if lost else ""


CHECKS = {"json": json_record, "sql": sql_statement, "label": same, "pirate": pirate_speech, "date": same}
