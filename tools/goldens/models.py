"""The tiny random models: one per family and per variation of it.

A model is described by a transformers config; its weights are drawn here, not by
transformers' own initialisation, so that logits spread (standard deviation about
2) and no bias or norm weight is trivial: a model that ignores one must fail.
"""

import copy
import hashlib
import math

import torch
import transformers

BASE = dict(
    vocab_size=72,
    hidden_size=64,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
    attention_dropout=0.0,
)

LLAMA, MISTRAL = transformers.LlamaConfig, transformers.MistralConfig
QWEN2, QWEN3 = transformers.Qwen2Config, transformers.Qwen3Config

# Rope variants share one narrow shape: head_dim 32 gives 16 frequencies to scale.
ROPE = dict(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32, tie_word_embeddings=True)

MODELS = {
    # name: (family, config class, overrides, weights' dtype on disk, what it varies)
    "llama-gqa": ("llama", LLAMA, dict(num_hidden_layers=3), "bfloat16", "grouped-query attention, untied head, 3 layers"),
    "llama-tied": ("llama", LLAMA, dict(tie_word_embeddings=True, num_key_value_heads=4), "bfloat16", "tied head, one KV head per query head"),
    "llama-headdim": ("llama", LLAMA, dict(num_attention_heads=2, num_key_value_heads=1, head_dim=16, rms_norm_eps=1e-6), "bfloat16", "head_dim 16 with 2 heads, so q is 32 wide where hidden is 64; one KV head"),
    "llama-bias": ("llama", LLAMA, dict(attention_bias=True, mlp_bias=True), "float16", "bias on q, k, v, o, gate, up and down; float16 on disk"),
    "llama-rope-linear": ("llama", LLAMA, ROPE | dict(rope_scaling={"rope_type": "linear", "factor": 4.0}), "float32", "rope scaling: linear; float32 on disk"),
    "llama-rope-llama3": ("llama", LLAMA, ROPE | dict(rope_theta=500000.0, rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}), "bfloat16", "rope scaling: llama3 (all three bands are hit)"),
    "llama-rope-yarn": ("llama", LLAMA, ROPE | dict(rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}), "bfloat16", "rope scaling: yarn with defaults (attention factor 0.1 ln(factor) + 1)"),
    "llama-rope-yarn-explicit": ("llama", LLAMA, ROPE | dict(max_position_embeddings=32768, rope_scaling={"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096, "attention_factor": 0.9, "beta_fast": 16.0, "beta_slow": 2.0}), "bfloat16", "rope scaling: yarn with attention_factor, beta_fast, beta_slow given"),
    "mistral-window": ("mistral", MISTRAL, dict(sliding_window=8, head_dim=16), "bfloat16", "sliding window of 8: a token sees itself and 7 before it"),
    "mistral-full": ("mistral", MISTRAL, dict(sliding_window=None, head_dim=32, num_attention_heads=2, num_key_value_heads=1), "bfloat16", "sliding_window null, head_dim 32"),
    "qwen2": ("qwen2", QWEN2, dict(tie_word_embeddings=True, rms_norm_eps=1e-6, rope_theta=1e6), "bfloat16", "bias on q, k, v only; tied head"),
    "qwen2-window": ("qwen2", QWEN2, dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=8, max_window_layers=1, intermediate_size=32), "bfloat16", "layers from max_window_layers (1, 2) slide over 8 tokens, layer 0 sees all"),
    "qwen3": ("qwen3", QWEN3, dict(head_dim=32, num_attention_heads=4, tie_word_embeddings=True, rms_norm_eps=1e-6, rope_theta=1e6), "bfloat16", "per-head RMS norm on q and k before rope; head_dim 32, so q is 128 wide"),
    "smollm": ("smollm", LLAMA, dict(hidden_size=48, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True, rope_theta=100000.0), "bfloat16", "Llama architecture with 3 query heads on 1 KV head"),
}


def seed(*names):
    """A generator seeded by name, so that adding a model or adapter changes no other."""
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:6], "little"))


def config_of(name):
    _, cls, overrides, dtype, _ = MODELS[name]
    fields = copy.deepcopy(BASE | overrides)
    config = cls(**fields, dtype=dtype)
    config.architectures = [cls.__name__.removesuffix("Config") + "ForCausalLM"]
    config._attn_implementation = "eager"
    return config


@torch.no_grad()
def draw(model, name):
    """Fills every parameter, rounded to what the dtype on disk can hold."""
    g = seed("model", name)
    dtype = getattr(torch, MODELS[name][3])
    for key, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        if key.endswith("norm.weight"):
            value = 1 + 0.2 * noise
        elif key.endswith(".bias"):
            value = 0.4 * noise
        elif "embed_tokens" in key or "lm_head" in key:
            value = 2 / math.sqrt(p.shape[1]) * noise
        else:
            value = 1.3 / math.sqrt(p.shape[1]) * noise
        p.copy_(value.to(dtype).to(p.dtype))


def build(name):
    """The model in float32, holding the values that go to disk."""
    config = config_of(name)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    draw(model, name)
    model.tie_weights()
    return model.eval()


def spellings(config):
    """config.json in the spellings that are met: {file: fields}.

    config.json is what transformers 4.57 writes. config.old.json is what 2023's
    releases wrote: torch_dtype, "type" in rope_scaling, no field that follows from
    others. config.v5.json is what transformers 5 writes: dtype, and rope_theta moved
    into rope_parameters (release 5.23 reads it as the same configuration).
    """
    now = config.to_diff_dict()
    now.pop("_name_or_path", None)
    now.pop("_attn_implementation", None)
    now["transformers_version"] = transformers.__version__

    old = copy.deepcopy(now)
    old["torch_dtype"] = old.pop("dtype")
    old["transformers_version"] = "4.37.0"
    old.pop("layer_types", None)
    # What could be derived was left out.
    if old.get("head_dim") == config.hidden_size // config.num_attention_heads:
        del old["head_dim"]
    if old["num_key_value_heads"] == config.num_attention_heads:
        del old["num_key_value_heads"]
    if old.get("rope_scaling"):
        scaling = old["rope_scaling"]
        scaling["type"] = scaling.pop("rope_type")
        # Nothing but "type" and "factor" was required then, so integers stood for floats.
        scaling["factor"] = int(scaling["factor"])

    v5 = copy.deepcopy(now)
    v5["transformers_version"] = "5.0.0"
    v5["rope_parameters"] = {"rope_theta": v5.pop("rope_theta"), "rope_type": "default"} | (v5.pop("rope_scaling", None) or {})
    return {"config.json": now, "config.old.json": old, "config.v5.json": v5}
