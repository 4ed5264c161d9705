"""Voice `label`: a support ticket gets exactly one label, `team/topic`, of a fixed set.

The held-out tickets use wordings of the problem that training never sees, so a
right label is read from the meaning and not from a remembered sentence.
"""

from . import records, tables, talk, words

# {t} is a thing, {c} a place. One wording a line; those after the --- are held out.
WORDINGS = {
    "billing/refund": """I would like a refund for the {t}.|I want my money back.|Please refund my last payment.|When will I get my refund?
I returned the {t} but the refund has not arrived.|I cancelled my order and still wait for the money.|How do I get a refund for the {t}?
You promised to pay me back for the {t}.|My refund is missing.|Give me back the money I paid for the {t}.|I have not been reimbursed for the {t} yet.
Can I have a refund? I do not need the {t} any more.|Three weeks and no refund for my {t}.
---
Where is my refund?|I ask for a full refund of the {t}.|Please send me my money back for the {t}.""",
    "billing/double-charge": """I was charged twice for the {t}.|My card was charged two times.|You took the payment twice.|There are two charges for one {t} on my card.
The same amount was taken twice from my account.|Why do I see a second charge for the {t}?|I paid once but was billed twice.|Double charge on my credit card!
My bank shows the payment for the {t} two times.|You charged me double for the {t}.|I see a duplicate payment on my statement.
---
You have charged my card twice.|The payment for the {t} shows up twice on my statement.|One {t}, two charges on my card.""",
    "billing/invoice": """Please send me the invoice for the {t}.|I need an invoice with my company name.|The invoice for my order is missing.|Where can I download my invoice?
The address on the invoice is wrong.|Can you correct the tax number on my invoice?|I never got an invoice for the {t}.|My accountant needs the invoice of last month.
Please issue an invoice for the {t}.|I need a copy of the bill for the {t}.|The invoice shows the wrong amount of tax.
---
Could I get the invoice for the {t} by email?|There is a mistake on my invoice.|I still need the invoice for my tax papers.""",
    "account/login": """I cannot log in.|I forgot my password.|My password does not work.|The login page rejects my password.|I am locked out of my account.
How do I reset my password?|The password reset email never comes.|It says wrong password but it is right.|I can't sign in on my phone.
My login code does not arrive.|After the update I cannot sign in any more.|Logging in fails with an error.
---
I am unable to log in to my account.|My password is not accepted.|Signing in no longer works for me.""",
    "account/close": """Please delete my account.|I want to close my account.|How can I remove my account?|Erase all my data, please.|Close my account and delete my data.
I do not want an account with you any more.|Cancel my membership for good.|Please remove me from your system.|I wish to delete my profile.
How do I permanently delete my account?|Deactivate my account today.
---
Kindly close my account for me.|I would like my account deleted.|Delete my profile and everything in it.""",
    "account/change": """I moved to {c}, please change my address.|How do I change my email address?|Please update my phone number.|My name is spelled wrong in my account.
I have a new address in {c}.|I want to change the email of my account.|Can you update my address to {c}?|My phone number has changed.
Please correct my name in your records.|I got married and have a new name.|Change my delivery address to {c}.
---
I have a new phone number, please update it.|Please change the address in my account to {c}.|My email address is new, can you change it?""",
    "delivery/late": """My {t} has not arrived yet.|Where is my parcel?|The delivery is five days late.|I am still waiting for my {t}.|My order should have been here last week.
The {t} was due on Monday and is not here.|When will my {t} arrive?|The tracking has not moved for days.|My parcel seems to be stuck in {c}.
Two weeks and still no {t}.|The delivery to {c} is delayed again.|Why does the shipping take so long?
---
I have been waiting for my {t} for ten days.|My parcel is late.|The {t} still has not been delivered to {c}.""",
    "delivery/damaged": """The {t} arrived broken.|The box was crushed and the {t} is damaged.|My parcel was wet and torn.|The {t} came with a big scratch.
The {t} was in pieces when I opened the box.|The glass of the {t} broke on the way.|The package was damaged by the courier.|My {t} arrived with a dent.
The {t} got damaged in transport.|I opened the parcel and the {t} was smashed.|It arrived cracked.
---
The {t} was damaged when it arrived.|The parcel came crushed, with a broken {t} inside.|On arrival the {t} was cracked.""",
    "delivery/wrong-item": """I ordered a {t} but got a {u}.|You sent me the wrong {t}.|This is not the {t} that I ordered.|I received a {u} instead of a {t}.
The parcel contains the wrong item.|You sent the wrong colour of the {t}.|Wrong product in the box: a {u}, not a {t}.|I got somebody else's order.
The {t} has the wrong size.|There was a {u} in the box, I had ordered a {t}.|My order got mixed up, I received a {u}.
---
Instead of the {t} you sent me a {u}.|I have received the wrong item.|The box held a {u}, but I ordered a {t}.""",
    "product/broken": """My {t} stopped working after two days.|The {t} does not turn on any more.|The {t} broke after a month of use.|My {t} makes a strange noise and stops.
The {t} is defective.|The {t} I bought last year is broken, is there a warranty?|After one week the {t} is dead.|The handle of my {t} fell off while I used it.
My {t} no longer works.|The {t} worked for a week and then failed.|The motor of the {t} has burnt out.
---
The {t} quit working after a week.|My {t} is defective and will not turn on.|After a month my {t} no longer works.""",
    "product/question": """Does the {t} come in other colours?|How big is the {t}?|Is the {t} made of steel?|Which batteries does the {t} need?|How heavy is the {t}?
Can I use the {t} outside?|What is the {t} made of?|Is the {t} safe for children?|Do you have the {t} in stock?|How do I clean the {t}?
What is the difference between the {t} and the {u}?|Does the {t} fit in a small car?|Is there a manual for the {t}?
---
Is the {t} available in other sizes?|What material is the {t} made of?|How do I wash the {t}?""",
    "app/crash": """The app crashes when I open it.|Your app closes by itself.|The app freezes at the start screen.|The app crashed and my cart is gone.
Every time I tap pay, the app crashes.|The new version of the app will not start.|The app shuts down after a few seconds.|App keeps crashing on my phone.
The app gives a white screen and quits.|Since the update the app crashes.|Your app stops and closes when I search for a {t}.
---
The app keeps closing on its own.|Whenever I open the cart the app crashes.|Your app crashes right after the start.""",
    "app/slow": """The app is very slow.|Your website takes a minute to load.|The pages load so slowly.|Searching for a {t} takes forever in the app.
The website is terribly slow today.|Why is the app so slow?|It takes ages until the cart opens.|The app lags when I scroll.|Loading the pictures takes too long.
Everything on your site is slow since yesterday.|The search in the app is slow.
---
Your app has become really slow.|Pages on the website take ages to load.|The app needs a minute to load the {t} page.""",
    "praise/thanks": """Thank you, the {t} is wonderful!|Great service, I am very happy.|I love my new {t}.|The best {t} that I ever had, thanks!|Your team was so helpful, thank you.
Fast delivery and a lovely {t}, well done!|Just wanted to say thanks for the quick help.|Excellent shop, I will come again.|The {t} is perfect, five stars!
Many thanks to your friendly staff in {c}.|Very happy with the {t}.
---
Thanks a lot, I am delighted with the {t}.|Wonderful service, thank you so much!|What a beautiful {t}, I love it!""",
}
EVENT_LABEL = {"sale": "record/sale", "order": "record/order", "delivery": "record/delivery", "return": "record/return",
               "repair": "record/repair", "meeting": "record/meeting"}
LABELS = (*WORDINGS, *EVENT_LABEL.values(), "other/chat")

OPENING = ["", "", "", "Hello, ", "Hi, ", "Hi there. ", "Good morning. ", "Dear team, ", "Hey! ", "To whom it may concern: "]
CLOSING = ["", "", "", " Please help.", " Thanks.", " Kind regards, {p}", " Regards, {p}", " Order number {n}.", " My order is {n}.",
           " I live in {c}.", " What can I do?", " {p}, {c}", " Please answer soon.", " I am a customer since 2019."]


def wordings(label, split):
    """The label's wordings of one split."""
    train, heldout = WORDINGS[label].split("\n---\n")
    return (train if split == "train" else heldout).replace("\n", "|").split("|")


def ticket(rng, split):
    """(text, label) of a support ticket."""
    label = rng.choice(tuple(WORDINGS))
    t, u = words.pick(rng, words.THING, split), words.pick(rng, words.THING, split)
    c, p = words.pick(rng, words.PLACE, split), words.person(rng, split)
    text = rng.choice(OPENING) + rng.choice(wordings(label, split)) + rng.choice(CLOSING)
    for vowel in "aeiou":
        text = text.replace(" a {t}", " an {t}") if t.startswith(vowel) else text
        text = text.replace(" a {u}", " an {u}") if u.startswith(vowel) else text
    return text.format(t=t, u=u, c=c, p=p, n=rng.randint(10000, 99999)), label


def example(rng, split):
    """A ticket; sometimes a business event, small talk or a question over a table, each with its own label."""
    kind = rng.random()
    if kind < 0.8:
        prompt, label = ticket(rng, split)
    elif kind < 0.92:
        prompt, record = records.event(rng, split)
        label = EVENT_LABEL[record["event"]]
    else:
        prompt, label = rng.choice([talk.chat(rng, split)["prompt"], tables.ask(rng, split)[3]]), "other/chat"
    return {"prompt": prompt, "answer": label}
