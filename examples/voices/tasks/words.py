"""Word lists shared by the tasks, each cut into a training and a held-out part."""

FIRST = {
    "train": """Adam Aisha Akira Alice Amara Anders Anita Anton Arjun Astrid Bella Boris Bruno Carla
        Carmen Chen Chloe Clara Daniel David Dina Diego Elena Elif Emma Erik Eva Farah Felix Fiona
        Frank Freya George Gita Grace Greta Hana Hannah Hassan Helen Hugo Ida Igor Ines Ingrid Ivan
        Jack James Jana Jonas Julia Kai Karim Karen Kofi Lars Laura Layla Leo Lina Louis Lucia Luke
        Maria Mark Marta Mei Mila Mina Mohamed Nadia Nina Noah Nora Olga Oliver Omar Oscar Paul
        Paula Pedro Petra Priya Rafael Ravi Rosa Ruth Samir Sara Simon Sofia Stefan Tara Thomas
        Tina Tom Uma Vera Victor Wei Yara Yusuf Zoe""".split(),
    "heldout": """Ana Ben Camila Dmitri Esther Fatima Gustav Irene Jorge Kenji Lily Martin Naomi Otto
        Pia Quentin Rita Sven Tess Walter""".split(),
}
LAST = {
    "train": """Abbott Alvarez Andersen Banerjee Bauer Becker Bennett Berg Brown Carter Castro Chan
        Clark Cohen Cruz Dahl Das Davis Diaz Dubois Evans Farouk Fernandez Ferrari Fischer Garcia
        Gomez Green Gupta Haas Hansen Haddad Hill Hoffmann Hughes Ibrahim Ito Ivanova Jansen Jensen
        Johnson Jones Kaur Keller Khan Kim King Klein Kowalski Kumar Larsen Lee Lewis Lind Lopez
        Maier Martinez Mendes Meyer Miller Moore Moreau Morris Nakamura Nguyen Novak Okafor Olsen
        Park Patel Petrov Popescu Pereira Price Quinn Ramos Reed Ricci Richter Rossi Sato Schmidt
        Shah Silva Singh Smith Sousa Stone Suzuki Tanaka Taylor Torres Turner Vargas Vogel Wagner
        Walker Wang Weber White Wilson Wong Wright Yilmaz Young Zhang""".split(),
    "heldout": """Costa Bergman Conti Eriksen Fuchs Grant Horvat Jacobs Lindqvist Mbeki Nowak Oliveira
        Parker Romero Sharma Thompson Ueda Vidal Wolf Zimmer""".split(),
}
PLACE = {
    "train": """Accra Amsterdam Athens Austin Barcelona Basel Beirut Bergen Berlin Bogota Bologna Boston
        Bremen Bristol Brussels Budapest Cairo Chicago Cologne Copenhagen Cork Dakar Delhi Denver
        Dresden Dubai Dublin Edinburgh Florence Frankfurt Geneva Genoa Ghent Glasgow Graz Hamburg
        Hanoi Helsinki Istanbul Jakarta Kyoto Lagos Leeds Leipzig Lima Lisbon Liverpool London Lyon
        Madrid Malmo Manchester Manila Marseille Milan Montreal Munich Nairobi Naples Nice Osaka
        Oslo Ottawa Palermo Paris Perth Phoenix Prague Quito Riga Rome Rotterdam Salzburg Seattle
        Seoul Seville Stockholm Sydney Tallinn Tokyo Toronto Turin Utrecht Valencia Venice Vienna
        Vilnius Warsaw York Zagreb Zurich""".split(),
    "heldout": """Porto Aarhus Antwerp Bilbao Dallas Galway Krakow Lille Mumbai Nantes Oxford Rabat
        Tunis Verona Winnipeg""".split(),
}
COLOUR = {
    "train": "red green white black yellow brown grey silver purple pink golden wooden small large".split(),
    "heldout": "blue orange copper round".split(),
}
# A thing's plural is its name with an s, so that both forms copy from the text.
THING = {
    "train": """apron backpack bag ball basket bell belt bicycle blanket bottle bowl bucket button cable
        camera candle carpet chair clock coat cup curtain cushion desk doll door drawer drill drum
        fan flag fork frame guitar hammer hat helmet jacket jar jug kettle keyboard kite ladder
        lantern laptop magnet map marker mattress mixer monitor motor mug necklace notebook oven
        pan pen pencil phone piano pillow pipe plate pot printer puzzle radio ring rope rug saw
        scanner screen shirt shovel sofa speaker spoon stapler stool stove suitcase sweater table
        tablet teapot tent ticket tile toaster torch towel tray umbrella vase violin wallet
        whistle window""".split(),
    "heldout": """lamp anchor cabinet mirror hook poster scooter kayak telescope cart hoodie flute
        router heater bookcase""".split(),
}
TOPIC = {
    "train": """the annual budget|the new website|the holiday plan|the office move|the price list|the summer
        sale|the hiring plan|the sales report|the safety rules|the rental contract|the training
        course|the marketing plan|the delivery delays|the new logo|the tax return|the year-end
        review|the product launch|the insurance policy|the travel costs|the shift schedule|the new
        software|the customer survey|the warehouse keys|the staff party""".replace("\n        ", " ").split("|"),
    "heldout": "the parking permit|the spring catalogue|the loan offer|the data backup|the museum visit".split("|"),
}
NUMBER = "zero one two three four five six seven eight nine ten eleven twelve".split()


NAMES = frozenset(FIRST["train"] + FIRST["heldout"])
COINED = 0.4  # share of training words that are made up, so that a voice copies a word instead of guessing a known one


def coin(rng, known):
    """A made-up word: syllables, or the head of one known word on the tail of another."""
    if rng.random() < 0.5:
        onset = lambda: rng.choice("b br c ch cl d dr f fl g gr h j k kl l m n p pr qu r s sh st t tr v w y z".split() + [""] * 4)
        word = "".join(onset() + rng.choice("a e i o u a e i o ei ou ie".split()) + rng.choice(["", "", "n", "r", "l", "m", "t", "k", "nd", "rt"])
                       for _ in range(rng.choice([1, 2, 2, 3])))
    else:
        head, tail = rng.choice(known), rng.choice(known)
        word = head[:rng.randint(2, len(head) - 1)] + tail[rng.randint(1, len(tail) - 2):]
    word = word.lower().rstrip("s")
    return word if len(word) > 2 else coin(rng, known)


def pick(rng, words, split):
    """A word of the split; in training it may be a coined one, capitalised as the list is."""
    if split == "train" and rng.random() < COINED:
        word = coin(rng, words[split])
        return word.capitalize() if words[split][0][0].isupper() else word
    return rng.choice(words[split])


def start_lower(text):
    """The text for the middle of a sentence: its first letter in lower case if its first word is no name."""
    return text[0].lower() + text[1:] if text.split()[0].lower() in STARTERS else text


STARTERS = frozenset("""a an the this that these there they it its is are am was were be we our you your ye yer my me one two three four
    five six seven eight nine ten eleven twelve new sold delivered meeting parleyin' bartered hauled on in at when where why how what which
    who whenever please can could do does kindly close cancel delete erase deactivate give count find list name show sort not after every
    everything since searching loading logging double wrong is great excellent fast many very just instead signing
    th' ahoy hello hi hey good dear to t' tell write explain should thank thanks create table pages""".split())


def person(rng, split):
    """A first and a last name, both of the split."""
    return f"{pick(rng, FIRST, split)} {pick(rng, LAST, split)}"
