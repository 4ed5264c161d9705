"""Data of the voices, one module a task; everything is made by script from the word lists here.

Every module offers `example(rng, split)`, which returns a dict with at least
`prompt` and `answer`, and whatever `checks.py` needs to judge another answer.
`split` is "train" or "heldout": the two never share names, places, things,
numbers of sentence heads marked as held out, or ticket wordings.
"""
