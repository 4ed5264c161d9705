"""Voice `date`: the date in a text as ISO 8601, with the time when one is given, `none` without a date."""

from . import dates, records, tables, talk, ticket_label, words

FRAMES = {
    "train": """The invoice is due on {d}.|Please call me back on {d}.|{p} was born on {d}.|The train to {c} leaves on {d}.
Our holiday starts on {d} and we are all excited.|The museum in {c} opened on {d}.|When is the deadline? I think it is {d}.
I will be in {c} from {d}.|The concert on {d} is sold out.|{p} signed the contract on {d}.|Can we meet on {d}?
The warranty ends on {d}.|My flight to {c} is on {d}.|The exam takes place on {d}.|{d} is the day we move to {c}.
Date: {d}|{d}|Payment received {d}, thank you.|The report, dated {d}, is missing a page.|Remind me on {d} to water the plants.
Please book a table for two on {d}.|The meeting with {p} is on {d}.|School starts again on {d}.|{p} starts work on {d}.
The shop closes for good on {d}.|Your parcel will arrive on {d}.|We got married on {d} in {c}.|The ship left {c} on {d}.
The next election is on {d}.|{p} retired on {d} after forty years.|Convert this date: {d}|What is {d} in ISO format?
The milk expires on {d}.|Since {d} nobody has lived in that house.|Doors open on {d}.|I have an appointment with {p} on {d}.
The ticket is valid until {d}.|They met in {c} on {d} for the first time.|As of {d}, {p} is our new manager.""".replace("\n", "|").split("|"),
    "heldout": """The roof was repaired on {d}.|{p} leaves for {c} on {d}.|The lease runs out on {d}.|I saw {p} in {c} on {d}.
We launch the new website on {d}.|The bridge in {c} was finished on {d}.|Let us have dinner on {d}.|The letter of {d} was lost.
Our next call with {p} is on {d}.|The bakery in {c} first opened on {d}.""".replace("\n", "|").split("|"),
}
NO_DATE = """The shop in {c} is closed.|{p} likes tea more than coffee.|It rains a lot in {c}.|Thank you for the flowers!
I lost my keys again.|{p} lives in {c}.|The soup was too hot.|My phone is broken.|We need more chairs.""".replace("\n", "|").split("|")


def example(rng, split):
    """A sentence with one date in any form (or none) and the answer."""
    fill = {"p": words.person(rng, split), "c": words.pick(rng, words.PLACE, split)}
    kind = rng.random()
    if kind < 0.06:
        prompt = rng.choice(NO_DATE).format(**fill)
        if split == "train" and rng.random() < 0.6:
            prompt = rng.choice([talk.chat(rng, split)["prompt"], tables.ask(rng, split)[3], ticket_label.ticket(rng, split)[0]])
        return {"prompt": prompt, "answer": "none"}
    if kind < 0.26:
        prompt, record = records.event(rng, split)
        return {"prompt": prompt, "answer": record["date"] or "none"}
    date = dates.draw(rng)
    spoken, answer = dates.any_form(rng, date), date.isoformat()
    if rng.random() < 0.35:
        at, iso = dates.clock(rng)
        spoken, answer = f"{spoken}{rng.choice([' at ', ' at ', ', ', ' around '])}{at}", f"{answer}T{iso}"
    prompt = rng.choice(FRAMES[split]).format(d=spoken, **fill)
    return {"prompt": prompt[0].upper() + prompt[1:], "answer": answer}
