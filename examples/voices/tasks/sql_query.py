"""Voice `sql`: a question over a stated table becomes a query; a statement of fact becomes an INSERT.

A held-out question carries two small databases: an answer is right when it
gives the same rows as the reference query on both.
"""

from . import records, tables, talk, ticket_label
from .sandbox import rows_of

INSERT_TABLE = {"sale": "sales", "order": "orders", "delivery": "deliveries", "return": "returns", "repair": "repairs",
                "meeting": "meetings"}


def literal(value):
    """An SQL literal."""
    return str(value) if isinstance(value, (int, float)) else "'" + value.replace("'", "''") + "'"


def insert(record):
    """The statement that stores a record in the table of its event, without the columns that are null."""
    row = {k: v for k, v in record.items() if k != "event" and v is not None}
    return f"INSERT INTO {INSERT_TABLE[record['event']]} ({', '.join(row)}) VALUES ({', '.join(map(literal, row.values()))});"


def ask(rng, split):
    """A question over a table whose reference query has an answer in both databases."""
    while True:
        table, _, query, prompt = tables.ask(rng, split)
        item = {"prompt": prompt, "answer": query}
        if split == "train":
            return item
        item["databases"] = [{"create": table.create(), "table": table.name, "rows": table.rows(rng)} for _ in range(2)]
        if "WHERE name" in query:  # the name asked for must be somebody
            key = query.split("'")[1]
            for base in item["databases"]:
                if all(key not in row for row in base["rows"]):
                    base["rows"][0][table.columns.index("name")] = key
        first, second = (rows_of(query, base) for base in item["databases"])
        if first and second and first != [(None,)] and second != [(None,)] and (first != second or "DISTINCT" in query):
            return item


def example(rng, split):
    """A question over a table, a statement of fact, or in training small talk and tickets."""
    kind = rng.random()
    if kind < 0.7:
        return ask(rng, split)
    if kind < 0.9 or split == "heldout":
        prompt, record = records.event(rng, split)
        return {"prompt": prompt, "answer": insert(record), "record": record}
    if kind < 0.95:
        prompt, label = ticket_label.ticket(rng, split)
        return {"prompt": prompt, "answer": f"INSERT INTO tickets (team, topic) VALUES ('{label.split('/')[0]}', '{label.split('/')[1]}');"}
    chat = talk.chat(rng, split)
    return {"prompt": chat["prompt"], "answer": chat["sql"]}
