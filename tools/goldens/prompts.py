"""The 20 prompts of the SmolLM2 goldens, written for them: 10 chats and 10 plain texts.

Each has a continuation that is forced, so that log-probabilities are also compared
where the model would not have gone by itself. None uses a byte that the vocabulary lacks.
"""

# messages, continuation
CHATS = [
    ([("user", "What is the capital of Portugal?")], "The capital of Portugal is Lisbon, on the river Tagus."),
    ([("user", "Write a haiku about the first snow of the year.")], "White on the dark roof,\nthe street forgets its own noise,\none cat's prints go home."),
    ([("system", "You answer in one short sentence."), ("user", "Why is the sky blue?")], "Air scatters blue light more strongly than red light."),
    ([("user", "Add 17 and 25."), ("assistant", "17 + 25 = 42."), ("user", "Now subtract 12.")], "42 - 12 = 30."),
    ([("user", "Translate into French: The train leaves at 9:45 tomorrow morning.")], "Le train part demain matin à 9 h 45."),
    ([("system", "You extract data as JSON."), ("user", "Maria Keller, born 3 May 1984, lives in Graz.")], '{"name": "Maria Keller", "born": "1984-05-03", "city": "Graz"}'),
    ([("user", "Give me a Python function that returns the n-th Fibonacci number.")], "def fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a"),
    ([("user", "My parcel never arrived and nobody answers the phone! What now?")], "I am sorry to hear that. Please send us your order number and we will look into it today."),
    ([("user", "List three uses of a paper clip.")], "1. Holding sheets together\n2. Pressing a reset button\n3. Marking a page"),
    ([("user", "Erkläre einem Kind, was ein Regenbogen ist.")], "Wenn die Sonne scheint und es regnet, teilen die Tropfen das Licht in viele Farben."),
]
# prompt, continuation
PLAIN = [
    ("The quick brown fox", " jumps over the lazy dog and disappears into the hedge."),
    ("Once upon a time, in a village at the foot of a mountain, there lived a clockmaker who", " had never once been on time for anything."),
    ("import numpy as np\n\ndef softmax(x):\n    ", "e = np.exp(x - x.max())\n    return e / e.sum()"),
    ("Water boils at", " 100 degrees Celsius at sea level, and at about 93 degrees in Mexico City."),
    ("SELECT name, price FROM products WHERE", " price < 20 ORDER BY name;"),
    ("Q: How many legs does a spider have?\nA:", " Eight.\nQ: And an ant?\nA: Six."),
    ("# Shopping list\n\n- 2 litres of milk\n- 12 eggs\n-", " 500 g of flour\n- a lemon\n"),
    ("In 1969, Apollo 11", " landed on the Moon; Armstrong and Aldrin walked there while Collins stayed in orbit."),
    ("def is_even(n: int) -> bool:\n    return", " n % 2 == 0\n"),
    ("Dear Ms. Okafor,\n\nThank you for your letter of 14 March. We are pleased to", " tell you that your application has been accepted.\n\nYours sincerely,"),
]
