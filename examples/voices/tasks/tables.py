"""Made-up tables and questions about them, each with its query."""

from . import words

# Tables a question may be about, (table, one row of it).
TABLES = {
    "train": """products product|houses house|students student|books book|movies movie|songs song|hotels hotel|flights flight
employees employee|players player|dogs dog|phones phone|trains train|shops shop|concerts concert|recipes recipe|courses course
museums museum|planes plane|ships ship|wines wine|horses horse|bridges bridge|tickets ticket|teachers teacher|gardens garden
teams team|artists artist|doctors doctor|farms farm|mountains mountain|rooms room""".replace("\n", "|").split("|"),
    "heldout": "cars car|cats cat|lakes lake|drivers driver|games game|cameras camera".split("|"),
}
TEXT = {
    "city": None, "colour": None, "owner": None,
    "category": "basic premium standard luxury family budget".split(), "status": "open closed new sold active lost".split(),
    "brand": "Acme Nordic Sunrise Atlas Vega Orion Delta".split(), "size": "small medium large tiny huge".split(),
    "language": "English French German Spanish Italian Polish".split(), "level": "easy hard expert beginner advanced".split(),
    "season": "spring summer autumn winter".split(), "material": "wood steel glass cotton leather stone".split(),
    "genre": "rock jazz drama comedy history fantasy".split(),
}
NUMBERS = {"price": (5, 900), "age": (1, 90), "weight": (1, 400), "year": (1950, 2025), "stock": (0, 200), "rating": (1, 10),
           "length": (2, 800), "score": (0, 100), "seats": (2, 400), "height": (1, 300), "distance": (1, 2000), "salary": (900, 9000)}
MOST = {"price": "most expensive", "age": "oldest", "weight": "heaviest", "length": "longest", "height": "tallest"}
LEAST = {"price": "cheapest", "age": "youngest", "weight": "lightest", "length": "shortest"}


def value(rng, column, split):
    """A value for a text column."""
    if column == "city":
        return words.pick(rng, words.PLACE, split)
    if column == "colour":
        return rng.choice(words.COLOUR["train"][:8])
    if column == "owner":
        return words.pick(rng, words.FIRST, split)
    return rng.choice(TEXT[column])


class Table:
    """A made-up table: its name, columns and rows, and questions about it."""

    def __init__(self, rng, split):
        self.rng, self.split = rng, split
        self.name, self.one = rng.choice(TABLES[split]).split()
        self.text = rng.sample(sorted(TEXT), rng.choice([1, 2, 2, 3]))
        self.number = rng.sample(sorted(NUMBERS), rng.choice([1, 2, 2]))
        self.columns = [*self.text, *self.number]
        rng.shuffle(self.columns)
        self.columns = ["id", "name", *self.columns] if rng.random() < 0.5 else ["name", *self.columns]
        self.pool = {column: list({value(rng, column, split) for _ in range(4)}) for column in self.text}
        for values in self.pool.values():
            values.sort()

    def kind(self, column):
        return "INTEGER" if column in NUMBERS or column == "id" else "TEXT"

    def create(self):
        return f"CREATE TABLE {self.name} ({', '.join(f'{c} {self.kind(c)}' for c in self.columns)});"

    def schema(self):
        """The table as the prompt states it."""
        if self.rng.random() < 0.6:
            return self.create()
        return f"Table {self.name}: {', '.join(self.columns)}."

    def rows(self, rng):
        """Fourteen rows; numbers of one column are distinct, so that a highest one exists."""
        names = rng.sample(words.FIRST["train"], 14)
        numbers = {c: rng.sample(range(NUMBERS[c][0], max(NUMBERS[c][1], NUMBERS[c][0] + 20)), 14) for c in self.number}
        rows = []
        for i in range(14):
            row = {"id": i + 1, "name": names[i]}
            row |= {c: rng.choice(self.pool[c]) for c in self.text} | {c: numbers[c][i] for c in self.number}
            rows.append([row[c] for c in self.columns])
        return rows

    def condition(self):
        """(words, SQL) of one condition."""
        rng = self.rng
        if rng.random() < 0.6:
            c = rng.choice(self.text)
            v = rng.choice(self.pool[c])
            return rng.choice([f"with {c} {v}", f"whose {c} is {v}", f"where the {c} is {v}"]), f"{c} = '{v}'"
        c = rng.choice(self.number)
        low, high = NUMBERS[c]
        n = low + (high - low) * rng.randint(2, 8) // 10
        if rng.random() < 0.5:
            return rng.choice([f"with {c} above {n}", f"with a {c} over {n}", f"whose {c} is more than {n}"]), f"{c} > {n}"
        return rng.choice([f"with {c} below {n}", f"with a {c} under {n}", f"whose {c} is less than {n}"]), f"{c} < {n}"

    def where(self, chance):
        """(" words", " WHERE SQL"), empty with probability 1 - chance; sometimes two conditions."""
        if self.rng.random() >= chance:
            return "", ""
        said, sql = self.condition()
        if self.rng.random() < 0.2:
            more_said, more = self.condition()
            if more.split()[0] != sql.split()[0]:
                return f" {said} and {more_said}", f" WHERE {sql} AND {more}"
        return f" {said}", f" WHERE {sql}"

    def question(self):
        """(question, query)."""
        rng, t = self.rng, self.name
        ask = rng.choice([self.count, self.count, self.names, self.names, self.aggregate, self.aggregate,
                          self.extreme, self.extreme, self.group, self.distinct, self.sort, self.lookup])
        said, sql = ask(rng, t)
        return said, f"SELECT {sql};"

    def count(self, rng, t):
        said, where = self.where(0.85)
        text = rng.choice(["How many {t} are there{w}?", "Count the {t}{w}.", "What is the number of {t}{w}?"])
        return text.format(t=t, w=said), f"COUNT(*) FROM {t}{where}"

    def names(self, rng, t):
        said, where = self.where(1)
        text = rng.choice(["List the names of the {t}{w}.", "What are the names of the {t}{w}?", "Show the name of all {t}{w}.",
                           "Which {t} are there{w}? Give their names."])
        return text.format(t=t, w=said), f"name FROM {t}{where}"

    def aggregate(self, rng, t):
        c = rng.choice(self.number)
        said, where = self.where(0.5)
        how, function = rng.choice([("average", "AVG"), ("total", "SUM"), ("highest", "MAX"), ("lowest", "MIN"),
                                    ("maximum", "MAX"), ("minimum", "MIN")])
        text = rng.choice(["What is the {h} {c} of the {t}{w}?", "Find the {h} {c} of all {t}{w}.", "Give the {h} {c} of the {t}{w}."])
        return text.format(h=how, c=c, t=t, w=said), f"{function}({c}) FROM {t}{where}"

    def extreme(self, rng, t):
        c = rng.choice(self.number)
        table, order = rng.choice([(MOST, "DESC"), (LEAST, "ASC")])
        word = "highest" if order == "DESC" else "lowest"
        text = rng.choice(["Which {o} has the {w} {c}?", "What is the name of the {o} with the {w} {c}?"])
        if c in table and rng.random() < 0.4:
            text, word = "What is the name of the {w} {o}?", table[c]
        if rng.random() < 0.25:
            n = rng.randint(2, 5)
            return f"Name the {n} {t} with the {'highest' if order == 'DESC' else 'lowest'} {c}.", f"name FROM {t} ORDER BY {c} {order} LIMIT {n}"
        return text.format(o=self.one, w=word, c=c), f"name FROM {t} ORDER BY {c} {order} LIMIT 1"

    def group(self, rng, t):
        c = rng.choice(self.text)
        if rng.random() < 0.6:
            return rng.choice([f"How many {t} are there for each {c}?", f"Count the {t} per {c}."]), f"{c}, COUNT(*) FROM {t} GROUP BY {c}"
        n = rng.choice(self.number)
        return rng.choice([f"What is the average {n} of the {t} for each {c}?", f"Show the average {n} per {c}."]), \
            f"{c}, AVG({n}) FROM {t} GROUP BY {c}"

    def distinct(self, rng, t):
        c = rng.choice(self.text)
        return rng.choice([f"What different values of {c} do the {t} have?", f"List every {c} of the {t} once."]), f"DISTINCT {c} FROM {t}"

    def sort(self, rng, t):
        c = rng.choice(self.number)
        way, order = rng.choice([("from highest to lowest", "DESC"), ("from lowest to highest", "ASC")])
        return rng.choice([f"List the names of the {t} by {c}, {way}.", f"Sort the {t} by {c} {way} and show their names."]), \
            f"name FROM {t} ORDER BY {c} {order}"

    def lookup(self, rng, t):
        column, key = rng.choice(self.columns[1:] if self.columns[0] == "name" else self.columns[2:]), words.pick(rng, words.FIRST, "train")
        return rng.choice([f"What is the {column} of the {self.one} named {key}?", f"Show the {column} of {key}."]), \
            f"{column} FROM {t} WHERE name = '{key}'"


def ask(rng, split):
    """(table, question, query, prompt): the prompt states the table and asks."""
    table = Table(rng, split)
    question, query = table.question()
    prompt = rng.choice([f"{table.schema()}\n{question}", f"{table.schema()} {question}", f"{question}\n{table.schema()}"])
    return table, question, query, prompt
