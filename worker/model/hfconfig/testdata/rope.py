"""Writes rope.json: rotary frequencies as transformers 4.57 computes them.

    python rope.py > rope.json
"""
import json
import warnings

import torch
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()

LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)

CASES = {
    "default": dict(head_dim=64),
    "theta": dict(head_dim=128, rope_theta=1000000.0),
    "smollm2": dict(head_dim=64, rope_theta=100000),
    "small head": dict(head_dim=6, rope_theta=500000.0),
    "linear": dict(head_dim=64, rope_scaling=dict(rope_type="linear", factor=4.0)),
    "linear, old key": dict(head_dim=64, rope_scaling=dict(type="linear", factor=2.5)),
    "llama3.1": dict(head_dim=128, rope_theta=500000.0, max_position_embeddings=131072, rope_scaling=LLAMA3),
    "llama3.2": dict(head_dim=64, rope_theta=500000.0, max_position_embeddings=131072, rope_scaling=dict(LLAMA3, factor=32.0)),
    "llama3, integers": dict(head_dim=64, rope_theta=10000, rope_scaling=dict(LLAMA3, factor=2, low_freq_factor=1, high_freq_factor=2)),
    "yarn": dict(head_dim=128, rope_theta=1000000.0, max_position_embeddings=131072, rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)),
    "yarn, old key": dict(head_dim=64, max_position_embeddings=32768, rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=32768)),
    "yarn, context not grown": dict(head_dim=128, rope_theta=1000000.0, max_position_embeddings=32768, rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)),
    "yarn, no original": dict(head_dim=64, max_position_embeddings=4096, rope_scaling=dict(rope_type="yarn", factor=8.0)),
    "yarn, betas": dict(head_dim=64, max_position_embeddings=8192, rope_scaling=dict(rope_type="yarn", factor=2.0, original_max_position_embeddings=4096, beta_fast=16.0, beta_slow=2.0)),
    "yarn, attention factor": dict(head_dim=64, max_position_embeddings=8192, rope_scaling=dict(rope_type="yarn", factor=2.0, original_max_position_embeddings=4096, attention_factor=1.25)),
    "yarn, mscale": dict(head_dim=64, max_position_embeddings=16384, rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=4096, mscale=0.707, mscale_all_dim=1.2)),
    "yarn, mscale alone": dict(head_dim=64, max_position_embeddings=16384, rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=4096, mscale=0.707)),
    "yarn, not truncated": dict(head_dim=64, max_position_embeddings=16384, rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=4096, truncate=False)),
    "yarn, factor below 1": dict(head_dim=64, max_position_embeddings=4096, rope_scaling=dict(rope_type="yarn", factor=1.0, original_max_position_embeddings=4096)),
    "yarn, factor against lengths": dict(head_dim=64, max_position_embeddings=16384, rope_scaling=dict(rope_type="yarn", factor=2.0, original_max_position_embeddings=4096)),
}

out = {"transformers": transformers.__version__, "cases": []}
for name, kw in CASES.items():
    cfg = LlamaConfig(hidden_size=kw["head_dim"] * 2, num_attention_heads=2, intermediate_size=8, num_hidden_layers=1, vocab_size=8, **json.loads(json.dumps(kw)))
    scaling = cfg.rope_scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        inv = 1.0 / (cfg.rope_theta ** (torch.arange(0, cfg.head_dim, 2, dtype=torch.int64).float() / cfg.head_dim))
        scale = 1.0
    else:
        inv, scale = ROPE_INIT_FUNCTIONS[kind](cfg, torch.device("cpu"))
    spelled = {k: v for k, v in kw.items() if k != "head_dim"}
    if "max_position_embeddings" not in spelled:
        spelled["max_position_embeddings"] = cfg.max_position_embeddings
    out["cases"].append({"name": name, "head_dim": kw["head_dim"], "config": spelled, "scale": float(scale), "inv_freq": [float(f"{v:.9g}") for v in inv.tolist()]})
print(json.dumps(out, indent=None, separators=(",", ":")).replace('{"name"', '\n{"name"'))
