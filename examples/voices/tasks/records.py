"""Sentences about one business event, with the record that they state.

The events are composed: a head (who did what with which things) and up to
three phrases for place, date and price in any order, each of which may be
missing. Other tasks reuse these sentences, so that one prompt means something
to every voice.
"""

from . import dates, words

KEYS = ("event", "person", "item", "quantity", "place", "date", "price", "currency")

HEADS = {
    "train": {
        "sale": ["{shop} sold {things} to {person}", "{person} bought {things}",
                 "{shop} sold {person} {things}", "Sold {things} to {person}",
                 "{person} purchased {things}", "{things} were sold to {person}"],
        "order": ["{person} ordered {things}", "{person} placed an order for {things}",
                  "An order for {things} came in from {person}", "New order from {person}: {things}",
                  "{person} would like to order {things}"],
        "delivery": ["{things} were delivered to {person}", "The courier brought {things} to {person}",
                     "{person} received {things}", "We delivered {things} to {person}",
                     "Delivered {things} to {person}"],
        "return": ["{person} returned {things}", "{person} sent back {things}",
                   "{things} came back from {person}", "{things} were returned by {person}"],
        "repair": ["We repaired {things} for {person}", "The workshop fixed {things} for {person}",
                   "{person} had {things} repaired", "{things} were repaired for {person}"],
        "meeting": ["Meeting with {person} about {topic}", "We will meet {person} about {topic}",
                    "{person} will meet us to discuss {topic}", "We are meeting {person} about {topic}",
                    "I have a meeting with {person} about {topic}"],
    },
    "heldout": {
        "sale": ["{things} were bought by {person}"],
        "order": ["{things} were ordered by {person}"],
        "delivery": ["The driver delivered {things} to {person}"],
        "return": ["{person} has returned {things}"],
        "repair": ["Our workshop repaired {things} for {person}"],
        "meeting": ["There is a meeting with {person} about {topic}"],
    },
}
PRICE_PHRASE = {
    "sale": ["for {}", "for {}", "at a price of {}"], "order": ["for {}", "worth {}", "at a price of {}"],
    "delivery": ["worth {}", "for a fee of {}"], "return": ["and got {} back", "worth {}", "for a refund of {}"],
    "repair": ["for {}", "at a cost of {}"],
}
CURRENCY = {"EUR": ("{} euros", "€{}", "{} EUR"), "USD": ("{} dollars", "${}", "{} USD"),
            "GBP": ("{} pounds", "£{}", "{} GBP"), "CHF": ("{} francs", "CHF {}", "{} CHF")}


def things(rng, split):
    """(text, item, quantity): "three red chairs", "red chairs", 3."""
    quantity = rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, rng.randint(11, 99), rng.randint(100, 600)])
    item = words.pick(rng, words.THING, split)
    if rng.random() < 0.55:
        item = f"{rng.choice(words.COLOUR[split])} {item}"
    if quantity == 1:
        article = "an" if item[0] in "aeiou" else "a"
        return f"{rng.choice([article, article, 'one'])} {item}", item, 1
    spoken = words.NUMBER[quantity] if quantity <= 12 and rng.random() < 0.4 else str(quantity)
    return f"{spoken} {item}s", f"{item}s", quantity


def money(rng):
    """(text, price, currency); prices in whole units or with two decimals."""
    price = rng.choice([rng.randint(2, 99), rng.randint(2, 99), rng.randint(100, 999), rng.randint(1000, 4999)])
    text = str(price)
    if price < 1000 and rng.random() < 0.2:
        text += rng.choice([".50", ".95", ".25", ".99"])
        price = float(text)
    currency = rng.choice(["EUR", "EUR", "USD", "USD", "GBP", "CHF"])
    return rng.choice(CURRENCY[currency]).format(text), price, currency


def head(rng, split, event, person, text, topic):
    """The clause that names the event, without its final dot."""
    pool = HEADS["train"][event]
    if split == "heldout" and rng.random() < 0.25:
        pool = HEADS["heldout"][event]
    shop = rng.choice(["The shop", "Our shop", "We", "The store", "Our branch"])
    clause = rng.choice(pool).format(shop=shop, person=person, things=text, topic=topic)
    if text.startswith(("a ", "an ", "one ", "1 ")):
        clause = clause.replace(" were ", " was ")
    return clause[0].upper() + clause[1:]


def event(rng, split):
    """One sentence and its record, a dict with exactly KEYS."""
    kind = rng.choice(["sale", "sale", "sale", "order", "order", "delivery", "return", "repair", "meeting"])
    record = dict.fromkeys(KEYS)
    record["event"], record["person"] = kind, words.person(rng, split)
    text, record["item"], record["quantity"] = things(rng, split)
    topic = rng.choice(words.TOPIC[split])
    if kind == "meeting":
        record["item"], record["quantity"] = topic.removeprefix("the "), None
    clause, tail = head(rng, split, kind, record["person"], text, topic), []
    if rng.random() < 0.85:
        record["place"] = words.pick(rng, words.PLACE, split)
        for shop in ("The shop", "Our shop", "The store", "Our branch"):
            if clause.startswith(shop) and rng.random() < 0.7:
                clause = clause.replace(shop, f"{shop} in {record['place']}", 1)
                break
        else:
            tail.append(f"in {record['place']}")
    if kind != "meeting" and rng.random() < 0.85:
        spoken, record["price"], record["currency"] = money(rng)
        tail.append(rng.choice(PRICE_PHRASE[kind]).format(spoken))
    rng.shuffle(tail)
    if rng.random() < 0.88:
        date = dates.draw(rng)
        record["date"] = date.isoformat()
        spoken = dates.plain(rng, date)
        if rng.random() < 0.25:
            clause = f"On {spoken}{rng.choice(['', ','])} {words.start_lower(clause)}"
        else:
            tail.insert(rng.randint(0, len(tail)), f"on {spoken}")
    return " ".join([clause, *tail]) + rng.choice([".", ".", ".", ".", ""]), record
