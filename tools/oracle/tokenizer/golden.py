"""Trains tiny vocabularies and writes what the reference makes of short texts.

usage: golden.py CORPUS.json internal/tokenizer/testdata

Writes corpus.json (the texts) and, for each kind of tokenizer, NAME.json:
{tokenizer: its tokenizer.json, rows: as oracle.py writes them}.
"""
import json
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
EXTRA = ["a <mask> b", "a<mask>", "<r>  b", "x<r>\n\ny", "word", "swords word_ word-word", " word ", "<Norm>x<norm>", "<ＮＯＲＭ>",
         "<s>a</s>", "<s> <s>", "＜s＞", "a<unk>b", "<mask><r> word <mask>", "", " ", "  <mask>  ", "ab--cd", "a--b---c", "x1234567y", "A.B,,C"]

P, N, D = pre_tokenizers, normalizers, decoders


def split(pattern, behavior="isolated", invert=False):
    return P.Split(Regex(pattern), behavior, invert)


def added(t):
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    t.add_tokens([AddedToken("<r>", rstrip=True, normalized=False), AddedToken("word", single_word=True, normalized=False),
                  AddedToken("<norm>", normalized=True)])


def bpe(texts, pre, dec, norm=None, size=400, bytes_=None, alphabet=None, extra=True, **options):
    t = Tokenizer(models.BPE())
    if norm:
        t.normalizer = norm
    if pre:
        t.pre_tokenizer = pre
    special = ["<unk>", "<s>", "</s>"]
    t.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, special_tokens=special + (bytes_ or []), show_progress=False, limit_alphabet=alphabet or 1000,
        initial_alphabet=P.ByteLevel.alphabet() if options.pop("byte_level", False) else []))
    j = json.loads(t.to_str())
    j["model"].update(options)
    # byte tokens belong to the model only, they are no added tokens
    j["added_tokens"] = [a for a in j["added_tokens"] if a["content"] in special]
    t = Tokenizer.from_str(json.dumps(j))
    if dec:
        t.decoder = dec
    if extra:
        added(t)
    return t


def by_score(t):
    """Every cut of a token in two is a merge, as with SentencePiece."""
    j = json.loads(t.to_str())
    vocab, merges = j["model"]["vocab"], j["model"]["merges"]
    rank = {}
    for a, b in merges:
        rank.setdefault(a + b, len(rank))
    j["model"]["merges"] = [[s[:k], s[k:]] for s in sorted(rank, key=rank.get) for k in range(1, len(s)) if s[:k] in vocab and s[k:] in vocab]
    return Tokenizer.from_str(json.dumps(j))


def unigram(texts, norm, pre, dec, byte_fallback=False):
    t = Tokenizer(models.Unigram())
    t.normalizer, t.pre_tokenizer = norm, pre
    special = ["<unk>", "<s>", "</s>"] + (BYTES if byte_fallback else [])
    t.train_from_iterator(texts, trainers.UnigramTrainer(
        vocab_size=700 if byte_fallback else 450, special_tokens=special, unk_token="<unk>", show_progress=False))
    j = json.loads(t.to_str())
    j["model"]["byte_fallback"] = byte_fallback
    j["added_tokens"] = j["added_tokens"][:3]
    t = Tokenizer.from_str(json.dumps(j))
    t.decoder = dec
    added(t)
    return t


def wrap(t, single):
    ids = [(x, t.token_to_id(x)) for x in ["<s>", "</s>"]]
    t.post_processor = processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing(single=single, special_tokens=ids)])
    return t


def build(texts):
    sp = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
    byte = dict(dec=D.ByteLevel(), byte_level=True)
    raw = P.ByteLevel(add_prefix_space=False, use_regex=False)
    out = {}
    out["llama3"] = wrap(bpe(texts, P.Sequence([split(LLAMA3), raw]), ignore_merges=True, **byte), "<s> $A")
    t = out["gpt2"] = bpe(texts, P.ByteLevel(add_prefix_space=True), norm=N.NFC(), **byte)
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    out["deepseek"] = bpe(texts, P.Sequence([split(p) for p in DEEPSEEK] + [raw]), **byte)
    out["tekken"] = bpe(texts, P.Sequence([split(TEKKEN, "removed", True), raw]), **byte)
    out["lines"] = bpe(texts, P.Sequence([split(r"\s+$"), split(r"^[a-z]|[;{]$", "merged_with_next"), split(r"\w+?\b"), raw]), **byte)
    out["falcon"] = bpe(texts, P.Sequence([P.Punctuation("contiguous"), P.ByteLevel(add_prefix_space=False), P.Digits(False),
                                           split("[0-9][0-9][0-9]")]), **byte)
    out["sentencepiece"] = wrap(bpe(texts, None, sp, N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")]), size=700, bytes_=BYTES,
                                    alphabet=80, unk_token="<unk>", fuse_unk=True, byte_fallback=True), "<s> $A </s>")
    # no added tokens but the three special ones: a GGUF file can say the same
    t = bpe(texts, None, sp, N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")]), size=700, bytes_=BYTES,
            alphabet=80, unk_token="<unk>", fuse_unk=True, byte_fallback=True, extra=False)
    out["plain"] = by_score(t)
    out["partbytes"] = bpe(texts, P.Metaspace(prepend_scheme="first"), D.Sequence([D.ByteFallback(), D.Metaspace(prepend_scheme="first")]),
                           bytes_=BYTES[:0xD8], size=600, alphabet=60, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    out["metaspace"] = bpe(texts, P.Metaspace(prepend_scheme="never", split=False), D.Metaspace(prepend_scheme="never"),
                           alphabet=60, unk_token="<unk>", fuse_unk=False)
    out["nounk"] = bpe(texts, P.Metaspace(), D.Metaspace(), alphabet=60)
    out["unigram"] = wrap(unigram(texts, N.Sequence([N.NFKC(), N.Lowercase()]), P.Metaspace(), D.Sequence([D.ByteFallback(), D.Metaspace()]),
                                  byte_fallback=True), "$A </s>")
    out["unigramunk"] = unigram(texts, N.Sequence([N.NFD(), N.StripAccents(), N.Strip(), N.Replace(Regex(r"\s{2,}"), " ")]),
                                P.Metaspace(split=False), D.Metaspace())
    out["bert"] = bpe(texts, P.BertPreTokenizer(), None, N.Sequence([N.NFD(), N.Lowercase()]), alphabet=90, unk_token="<unk>")
    out["whitespace"] = bpe(texts, P.Sequence([P.Whitespace(), P.Digits(True)]), None, N.NFKD(), alphabet=90)
    out["splits"] = bpe(texts, P.Sequence([P.CharDelimiterSplit(","), P.Split("-", "merged_with_next"), split(r"[aeiou]+", "merged_with_previous"),
                                           split(r"(?<=[a-z])[A-Z]|\s", "contiguous"), P.Split("?", "removed")]),
                        D.Sequence([D.Replace(Regex("e+"), "E"), D.Fuse(), D.Replace("ab", "<ab>"), D.Strip(".", 2, 0)]), alphabet=90)
    out["wordsplit"] = bpe(texts, P.Sequence([P.WhitespaceSplit(), P.Punctuation("merged_with_previous")]),
                           D.Sequence([D.Strip("a", 0, 1), D.Replace("th", "Θ")]), alphabet=90)
    return out


def choose(corpus):
    """Short texts of every category."""
    rng = random.Random(7)
    by = {}
    for x in corpus:
        if 0 < len(x["s"]) <= 90:
            by.setdefault(x["c"], []).append(x)
    picked = []
    for xs in by.values():
        picked += xs if len(xs) <= 30 else rng.sample(xs, 30)
    return picked + [{"c": "added", "s": s} for s in EXTRA]


def main():
    everything = json.load(open(sys.argv[1]))
    texts = [x["s"] for x in everything if x["c"] in ("english", "code", "digits", "ws", "cjk", "arabic_etc")]
    corpus = choose(everything)

    def write(name, value):
        with open(f"{sys.argv[2]}/{name}.json", "w") as f:
            json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")

    write("corpus", corpus)
    for name, t in build(texts).items():
        rows = []
        for x in corpus:
            ids = t.encode(x["s"], add_special_tokens=False).ids
            rows.append({"ids": ids, "special": t.encode(x["s"]).ids,
                         "text": t.decode(ids, skip_special_tokens=False), "skip": t.decode(ids)})
        write("golden_" + name, {"tokenizer": json.loads(t.to_str()), "rows": rows})
        print(name, t.get_vocab_size())


main()
