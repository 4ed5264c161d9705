"""Voice `pirate`: statements are retold and questions answered as a pirate would, `Arr, … matey!`"""

import re

from . import records, tables, talk, ticket_label, words

SPEECH = {
    "the": "th'", "is": "be", "are": "be", "am": "be", "was": "were", "you": "ye", "your": "yer", "my": "me", "for": "fer",
    "of": "o'", "and": "an'", "to": "t'", "over": "o'er", "before": "afore", "yes": "aye", "hello": "ahoy", "hi": "ahoy",
    "friend": "hearty", "shop": "tradin' post", "store": "tradin' post", "branch": "cove", "workshop": "shipyard",
    "euros": "doubloons", "dollars": "doubloons", "pounds": "doubloons", "francs": "doubloons", "money": "gold",
    "sold": "bartered", "bought": "plundered", "purchased": "plundered", "ordered": "demanded",
    "delivered": "hauled", "brought": "hauled", "received": "seized", "returned": "heaved back", "sent": "heaved",
    "repaired": "patched up", "fixed": "patched up", "courier": "cabin boy", "driver": "cabin boy",
    "meeting": "parleyin'", "meet": "parley with", "discuss": "jaw about", "parcel": "chest", "package": "chest",
    "customer": "shipmate", "company": "crew", "team": "crew", "password": "secret word", "bill": "ransom note",
}


def retell(text):
    """The text in pirate's words: one sentence's start in lower case unless it is a name, no final stop."""
    def say(match):
        word = match.group(0)
        said = SPEECH.get(word.lower(), word)
        return said[0].upper() + said[1:] if said != word and word[0].isupper() and word != "I" else said

    said = re.sub(r"[A-Za-z]+", say, text.strip().rstrip(".!?"))
    return words.start_lower(said)


LEXICON = re.compile(r"\b(th'|o'|an'|t'|fer|ye|yer|be|me|were|aye|ahoy|o'er|afore|hearty|doubloons|gold|treasure|bartered|plundered|"
                     r"demanded|hauled|heaved|patched|seized|parley|parleyin'|tradin'|cove|shipyard|shipmate|crew|captain)", re.I)


def example(rng, split):
    """A prompt of any kind; `mention` lists what an answer must keep of it."""
    kind = rng.random()
    if kind < 0.4:
        prompt, record = records.event(rng, split)
        said, mention = retell(prompt), [record[key] for key in ("person", "place") if record[key]]
    elif kind < 0.6:
        prompt, _ = ticket_label.ticket(rng, split)
        said, mention = retell(prompt), []
    elif kind < 0.64 and split == "train":
        _, question, _, prompt = tables.ask(rng, split)
        said, mention = retell(question), []
    else:
        chat = talk.chat(rng, split)
        prompt, said, mention = chat["prompt"], chat["pirate"], chat["mention"]
    if not LEXICON.search(said):  # nothing in it to say differently
        return example(rng, split)
    return {"prompt": prompt, "answer": f"Arr, {said}, matey!", "mention": mention}
