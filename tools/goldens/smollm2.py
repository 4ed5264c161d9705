"""Goldens of SmolLM2-135M-Instruct, of its base or with PEFT adapters.

    smollm2.py GGUF OUT                     writes OUT/base.json
    smollm2.py GGUF OUT --adapter DIR…      writes OUT/<name of DIR>.json for each

With --tasks FOLDER, an adapter that has FOLDER/<its name>.jsonl (lines with a prompt
and an answer) is asked its first 10 prompts beside 5 chats and 5 plain texts.

The reference is transformers + PEFT in float32 on the dequantised weights; the
same in torch all in bfloat16 states how far an honest bfloat16 run is from it.
The format is described in README.md.
"""

import argparse
import hashlib
import json
import os
import warnings

import gguf
import jinja2
import numpy as np
import peft
import tokenizers
import torch
import transformers
from jinja2.sandbox import ImmutableSandboxedEnvironment

import prompts
from ggufs import LAYER, TOP, heads_of, unpermute

GREEDY = 32
TOP_K = 5
HF_NAME = {v: k for k, v in LAYER.items()} | {v: k for k, v in TOP.items()}


def field(reader, key):
    return reader.fields[key].contents()


def tokenizer_of(reader):
    """Byte-level BPE from the GGUF's own vocabulary; digits alone, then GPT-2's pattern; no BOS.

    transformers' conversion of this GGUF adds a BOS and loses the split of digits.
    """
    tokens, kinds = field(reader, "tokenizer.ggml.tokens"), field(reader, "tokenizer.ggml.token_type")
    merges = [tuple(m.split(" ")) for m in field(reader, "tokenizer.ggml.merges")]
    t = tokenizers.Tokenizer(tokenizers.models.BPE({s: i for i, s in enumerate(tokens)}, merges))
    t.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Digits(individual_digits=True), tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    t.decoder = tokenizers.decoders.ByteLevel()
    special = [s for s, k in zip(tokens, kinds) if k == gguf.TokenType.CONTROL]
    t.add_special_tokens([tokenizers.AddedToken(s, special=True, normalized=False) for s in special])
    return t


def config_of(reader):
    get = lambda key: field(reader, "llama." + key)
    config = transformers.LlamaConfig(
        vocab_size=get("vocab_size"),
        hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"),
        num_attention_heads=get("attention.head_count"),
        num_key_value_heads=get("attention.head_count_kv"),
        max_position_embeddings=get("context_length"),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope_theta=get("rope.freq_base"),
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    return config


def hf_key(name):
    """blk.0.attn_q.weight → model.layers.0.self_attn.q_proj.weight"""
    stem, _, kind = name.rpartition(".")
    if stem in HF_NAME:
        return f"{HF_NAME[stem]}.{kind}"
    _, layer, role = stem.split(".")
    return f"model.layers.{layer}.{HF_NAME[role]}.{kind}"


def weights_of(reader, config):
    """The dequantised tensors in Hugging Face's layout, float32."""
    out = {}
    for t in reader.tensors:
        a = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32).reshape(tuple(reversed(t.shape.tolist())))
        role = t.name.split(".")[-2]
        if role in ("attn_q", "attn_k"):
            a = unpermute(a, heads_of(config, role))
        out[hf_key(t.name)] = torch.from_numpy(np.ascontiguousarray(a))
    return out


def load(config, weights, dtype, adapter):
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()
    if adapter:
        model = peft.PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False)
    assert all(p.dtype == dtype for p in model.parameters())
    return model.eval()


def task_chats(path):
    """The first prompts of a task file, in the form of prompts.CHATS."""
    with open(path) as f:
        items = [json.loads(line) for line in f]
    return [([("user", item["prompt"])], item["answer"]) for item in items[:10]]


def texts_of(reader, tasks):
    """20 × (kind, messages or None, prompt text, continuation)."""
    chats, plain = prompts.CHATS, prompts.PLAIN
    if tasks:
        chats, plain = task_chats(tasks) + chats[:5], plain[:5]
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    template = env.from_string(field(reader, "tokenizer.chat_template"))
    out = []
    for turns, answer in chats:
        messages = [{"role": r, "content": c} for r, c in turns]
        out.append(("chat", messages, template.render(messages=messages, add_generation_prompt=True), answer))
    return out + [("plain", None, text, answer) for text, answer in plain]


@torch.no_grad()
def greedy(model, ids):
    """GREEDY tokens after ids, going on past an end-of-text."""
    x, cache, out = torch.tensor([ids]), None, []
    for _ in range(GREEDY):
        step = model(input_ids=x, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        out.append(int(step.logits[0, -1].argmax()))
        x = torch.tensor([out[-1:]])
    return out


@torch.no_grad()
def forced(model, ids, continuation):
    """log_softmax at the positions that predict the continuation: F32 [len(continuation), V]."""
    logits = model(input_ids=torch.tensor([ids + continuation]), use_cache=False).logits[0]
    return torch.log_softmax(logits[len(ids) - 1 : -1].float(), -1)


def digits(values, n=5):
    return [round(float(v), n) for v in values]


def score(exact, rounded, ids, out):
    """What is stored about one forced continuation; the Δ of every token goes to out."""
    at = torch.arange(len(ids)), torch.tensor(ids)
    top = exact.topk(TOP_K)
    delta = (exact[at] - rounded[at]).abs()
    out.extend(delta.tolist())
    return {
        "ids": ids,
        "logprobs": digits(exact[at]),
        "top_ids": top.indices.tolist(),
        "top_logprobs": [digits(row) for row in top.values],
        "bf16_logprobs": digits(rounded[at]),
        "bf16_argmax": rounded.argmax(-1).tolist(),
    }


def summary(deltas):
    return {"mean_abs_dlogprob": round(sum(deltas) / len(deltas), 5), "max_abs_dlogprob": round(max(deltas), 4), "tokens": len(deltas)}


def goldens(reader, adapter, tasks):
    tokenizer, config = tokenizer_of(reader), config_of(reader)
    weights = weights_of(reader, config)
    exact, rounded = (load(config, weights, dtype, adapter) for dtype in (torch.float32, torch.bfloat16))
    own, given, agree, cases = [], [], 0, []
    for kind, messages, text, answer in texts_of(reader, tasks):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text, text
        path = greedy(exact, ids)
        after = tokenizer.encode(answer, add_special_tokens=False).ids
        lp = forced(exact, ids, path)
        if lp.argmax(-1).tolist() != path:
            raise SystemExit(f"{text!r}: greedy with a cache and one pass disagree")
        case = {"kind": kind, "text": text, "ids": ids, "greedy_text": tokenizer.decode(path, skip_special_tokens=False)}
        if messages:
            case["messages"] = messages
        case["greedy"] = score(lp, forced(rounded, ids, path), path, own)
        case["given"] = {"text": answer} | score(forced(exact, ids, after), forced(rounded, ids, after), after, given)
        agree += sum(a == b for a, b in zip(path, case["greedy"]["bf16_argmax"]))
        cases.append(case)
    bound = {"greedy": summary(own), "given": summary(given), "all": summary(own + given), "greedy_tokens_equal": round(agree / len(own), 4)}
    return {"bf16": bound, "cases": cases}


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write(path, document):
    """One case a line: the file stays readable in a diff."""
    cases = document.pop("cases")
    head = json.dumps(document, ensure_ascii=False, indent=1)[:-2]
    lines = ",\n".join("  " + json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases)
    with open(path, "w") as f:
        f.write(f'{head},\n "cases": [\n{lines}\n ]\n}}\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("out")
    parser.add_argument("--adapter", nargs="+", default=[None], help="PEFT folders; without, the base model")
    parser.add_argument("--tasks", help="folder of <adapter>.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("error", message=".*missing adapter keys.*")
    warnings.filterwarnings("error", message=".*unexpected keys.*")

    os.makedirs(args.out, exist_ok=True)
    reader = gguf.GGUFReader(args.gguf)
    for adapter in args.adapter:
        name = os.path.basename(os.path.normpath(adapter)) if adapter else "base"
        head = {"format": 1, "model": "SmolLM2-135M-Instruct.Q4_1.gguf", "model_sha256": sha256(args.gguf), "adapter": name if adapter else None}
        if adapter:
            head["adapter_sha256"] = sha256(os.path.join(adapter, "adapter_model.safetensors"))
        head["made_with"] = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "peft": peft.__version__}
        tasks = os.path.join(args.tasks or "", name + ".jsonl")
        got = goldens(reader, adapter, tasks if args.tasks and os.path.exists(tasks) else None)
        write(os.path.join(args.out, name + ".json"), head | got)
        print(name, got["bf16"], flush=True)


if __name__ == "__main__":
    main()
