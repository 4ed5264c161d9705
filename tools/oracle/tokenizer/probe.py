"""Shows where the reference's Unicode data differs from Go's.

usage: probe.py OUT.json

Writes, by name, ranges of code points: the pattern classes the reference
knows, what its normalization forms change, and which code points it reorders.
internal/tokenizer/unicode_tables.go lists the difference to Go's tables, and
TestUnicodeProbe checks it against OUT.json ($CHORALE_ORACLE_DIR/unicode.json).
"""
import json
import sys

from tokenizers import Regex, normalizers
from tokenizers.pre_tokenizers import Split

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CLASSES = {"L": r"\p{L}", "N": r"\p{N}", "M": r"\p{M}", "P": r"\p{P}", "S": r"\p{S}", "space": r"\s",
           "upper": r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", "lower": r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"}


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def main():
    every = "".join(map(chr, POINTS))
    classes = {}
    for name, pattern in CLASSES.items():
        found = Split(Regex(pattern), "removed", invert=True).pre_tokenize_str(every)
        classes[name] = ranges({ord(c) for text, _ in found for c in text})
    forms = {}
    for form in ["NFC", "NFD", "NFKC", "NFKD"]:
        n = getattr(normalizers, form)()
        changed = ((c, n.normalize_str(chr(c))) for c in POINTS)
        forms[form] = {c: s for c, s in changed if s != chr(c)}
    nfd = normalizers.NFD()
    # U+0345 has the highest combining class: what moves before it combines
    reordered = ranges({c for c in POINTS if c not in forms["NFD"] and nfd.normalize_str("a\u0345" + chr(c))[1] == chr(c) != "\u0345"})
    json.dump({"classes": classes, "forms": forms, "reordered": reordered}, open(sys.argv[1], "w"))


main()
