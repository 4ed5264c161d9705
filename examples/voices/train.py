#!/usr/bin/env python3
"""Trains the voices on one GPU and measures them with and without their adapter.

    python3 train.py --model SmolLM2-135M-Instruct.Q4_1.gguf --out ../adapters

Needs torch, transformers, peft, tokenizers, gguf (requirements.txt). Every voice
is a process of its own; all five fit on one GPU. The data comes from data.py.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything comes from the GGUF file

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import base
import checks
import data

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
# Different ranks, modules and ways to name them, so that a batch of all voices is a mixed one.
VOICES = {
    "json": dict(lora=dict(r=4, lora_alpha=8, target_modules=ATTENTION + MLP), rate=2e-3),
    "sql": dict(lora=dict(r=12, lora_alpha=8, use_rslora=True, target_modules=ATTENTION), rate=1.5e-3),
    "label": dict(lora=dict(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"]), rate=1e-3),
    "pirate": dict(lora=dict(r=8, lora_alpha=16, target_modules=MLP, layers_to_transform=list(range(6, 30)),
                             layers_pattern="layers"), rate=1.5e-3),
    "date": dict(lora=dict(r=8, lora_alpha=16, target_modules=r"model\.layers\.\d+\.(self_attn\.[qv]_proj|mlp\.down_proj)",
                           rank_pattern={"q_proj": 16, "down_proj": 4}, alpha_pattern={"q_proj": 32, "down_proj": 8}), rate=1.5e-3),
}
DEMO = ["The shop in Porto sold 3 blue lamps to Ana Costa on 5 March 2026 for 42 euros.",
        "What is the capital of France?",
        "Hello, my hoodie arrived with a hole in it and I want my money back. Ben Parker, Oxford",
        "CREATE TABLE cars (name TEXT, city TEXT, price INTEGER);\nHow many cars are there with city Oxford?",
        "Dinner with Rita Sharma on Friday, 11 December 2026 at 7:30 pm in Bilbao.",
        "Write a short poem about the sea."]
ANSWER_TOKENS = 96  # the longest right answer has 73


def wide_heldout(voice, n):
    """Further held-out items, beyond the committed ones."""
    return data.sample(voice, data.HELDOUT_SEED + 1, "heldout", n)


def batches(voice, tokenizer, args):
    """Endless (ids, labels, mask), right-padded; only the answer and its end are learnt."""
    exclude = {item["prompt"] for item in data.load_heldout(voice) + wide_heldout(voice, args.wide)} | set(DEMO)
    stream = data.stream(voice, args.seed, "train", exclude)
    while True:
        rows = []
        for _ in range(args.batch):
            item = next(stream)
            prompt = tokenizer.encode(base.chatml(item["prompt"]), add_special_tokens=False).ids
            answer = tokenizer.encode(item["answer"], add_special_tokens=False).ids + [base.EOS]
            rows.append((prompt, answer))
        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        width = (width + 15) // 16 * 16
        ids = torch.full((args.batch, width), base.EOS)
        labels = torch.full((args.batch, width), -100)
        mask = torch.zeros((args.batch, width), dtype=torch.long)
        for i, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            ids[i, :end] = torch.tensor(prompt + answer)
            labels[i, len(prompt):end] = torch.tensor(answer)
            mask[i, :end] = 1
        yield ids.to(args.device), labels.to(args.device), mask.to(args.device)


def learn(model, voice, tokenizer, args):
    """Trains the adapter in fp32 on the base in bf16: AdamW, warm-up, cosine to a tenth."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:
        p.data = p.data.float()
    peak = VOICES[voice]["rate"]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(
        (step + 1) / 40, 0.1 + 0.45 * (1 + math.cos(math.pi * min(step / args.steps, 1)))))
    model.train()
    start, total = time.time(), 0.0
    for step, (ids, labels, mask) in zip(range(args.steps), batches(voice, tokenizer, args)):
        with torch.autocast(args.device, dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=labels, attention_mask=mask).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.detach()
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            print(f"{voice} step {step + 1} loss {total.item() / (step % 100 + 1):.4f} {time.time() - start:.0f} s", flush=True)
            total = 0.0


def save(model, folder):
    """PEFT's own files, the weights rounded to bf16."""
    model.save_pretrained(folder, save_embedding_layers=False)
    weights = folder / "adapter_model.safetensors"
    save_file({name: t.to(torch.bfloat16).contiguous() for name, t in load_file(weights).items()}, weights, metadata={"format": "pt"})
    (folder / "README.md").unlink(missing_ok=True)


@torch.no_grad()
def answers(model, tokenizer, prompts, device, size=125):
    """Greedy answers to single user messages."""
    said = []
    for at in range(0, len(prompts), size):
        ids = [tokenizer.encode(base.chatml(p), add_special_tokens=False).ids for p in prompts[at:at + size]]
        width = max(map(len, ids))
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
        padded = torch.tensor([[base.EOS] * (width - len(row)) + row for row in ids], device=device)
        out = model.generate(input_ids=padded, attention_mask=mask, max_new_tokens=ANSWER_TOKENS, do_sample=False,
                             eos_token_id=base.EOS, pad_token_id=base.EOS)
        said += [tokenizer.decode(row[width:].tolist(), skip_special_tokens=True) for row in out]
    return said


def score(voice, items, said):
    """How many answers are right, and the first few that are not."""
    verdicts = [checks.CHECKS[voice](item, answer) for item, answer in zip(items, said)]
    wrong = [{"prompt": item["prompt"], "answer": answer, "why": why} for item, answer, why in zip(items, said, verdicts) if why]
    return {"right": len(items) - len(wrong), "of": len(items), "wrong": wrong[:12]}


def measure(voice, folder, args):
    """Scores of the saved adapter, the base, and the base told what to do, in fp32."""
    model, tokenizer = base.load(args.model, torch.float32, args.device)
    heldout = data.load_heldout(voice)[:args.items]
    wide = wide_heldout(voice, args.wide)
    ask = lambda prompts: answers(model, tokenizer, prompts, args.device)
    prompts = [item["prompt"] for item in heldout]
    result = {"base": score(voice, heldout, ask(prompts)),
              "base_told": score(voice, heldout, ask([f"{checks.BRIEF[voice]}\n\n{p}" for p in prompts]))}
    demo = {"base": ask(DEMO)}
    model = PeftModel.from_pretrained(model, folder).eval()
    result |= {"adapter": score(voice, heldout, ask(prompts)), "adapter_wide": score(voice, wide, ask([item["prompt"] for item in wide]))}
    demo["adapter"] = ask(DEMO)
    return result | {"demo": demo}


def run(voice, args):
    """Trains, saves and measures one voice."""
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    folder = args.out / voice
    if args.steps:
        model, tokenizer = base.load(args.model, torch.bfloat16, args.device)
        config = LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path=base.NAME, lora_dropout=0.0, bias="none", **VOICES[voice]["lora"])
        model = get_peft_model(model, config)
        model.peft_config["default"].base_model_name_or_path = base.NAME
        learn(model, voice, tokenizer, args)
        save(model, folder)
        del model
    torch.backends.cuda.matmul.allow_tf32 = False
    result = measure(voice, folder, args)
    with open(args.results / f"{voice}.json", "w", encoding="utf-8") as out:
        json.dump(result, out, ensure_ascii=False, indent=1)
    print(voice, {key: f"{r['right']}/{r['of']}" for key, r in result.items() if key != "demo"}, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the GGUF file of SmolLM2-135M-Instruct")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("../adapters"), help="folder of the adapters (../adapters)")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"), help="folder for <voice>.json with the scores (results)")
    parser.add_argument("--voice", choices=VOICES, nargs="*", help="which voices (all, side by side)")
    parser.add_argument("--steps", type=int, default=600, help="0 measures only")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--items", type=int, default=50, help="held-out items to measure on")
    parser.add_argument("--wide", type=int, default=300, help="further held-out items, not committed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    names = args.voice or list(VOICES)
    if len(names) == 1:
        return run(names[0], args)
    rest = [flag for flag in sys.argv[1:] if flag not in VOICES and flag != "--voice"]
    children = [subprocess.Popen([sys.executable, __file__, *rest, "--voice", name]) for name in names]
    return max(child.wait() for child in children)


if __name__ == "__main__":
    sys.exit(main())
