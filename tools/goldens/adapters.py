"""The adapters: every variety of PEFT LoRA that Chorale loads, and some it refuses."""

from dataclasses import dataclass, field

ATTN = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
ALL = ATTN + MLP


@dataclass
class Adapter:
    """One adapter: LoraConfig's arguments and what is done beyond them.

    patch       fields written over adapter_config.json after saving
    dtype       dtype of the tensors on disk
    embeddings  save_pretrained's save_embedding_layers
    shift       the embedding matrix is changed too, as if it had been trained
    optional    a reader may refuse it by name instead of serving it
    """

    config: dict
    varieties: list
    dtype: str = "bfloat16"
    patch: dict = field(default_factory=dict)
    embeddings: object = False
    shift: bool = False
    optional: bool = False


def lora(r, alpha, target, *varieties, **rest):
    own = {k: rest.pop(k) for k in ("dtype", "patch", "embeddings", "shift", "optional") if k in rest}
    return Adapter(dict(r=r, lora_alpha=alpha, target_modules=target, task_type="CAUSAL_LM", **rest), list(varieties), **own)


# Ordinary ones, for every family.
attn_r4 = lora(4, 8, ATTN, "r=4", "target_modules=list")
qv_r1_regex = lora(1, 3, r".*\.self_attn\.(q|v)_proj", "r=1", "target_modules=regex", "dtype=float32", dtype="float32")
all_r8_bf16 = lora(8, 16, ALL, "r=8", "all modules", "dtype=bfloat16")
mixed_rslora = lora(
    8, 4, ALL, "use_rslora", "rank_pattern", "alpha_pattern", "mixed ranks 1, 4, 8, 16",
    use_rslora=True,
    rank_pattern={r"layers\.0\.self_attn\.q_proj": 16, "v_proj": 4, "down_proj": 1},
    alpha_pattern={"gate_proj": 2, r".*\.1\.self_attn\.o_proj": 6},
)
all_linear = lora(2, 4, "all-linear", "target_modules=all-linear", "dtype=float16", dtype="float16", patch={"target_modules": "all-linear"})
mlp_r4 = lora(4, 4, MLP, "r=4", "target_modules=list")

# The first pattern that matches wins, in the file's order. PEFT sorts the file, others need not:
# sorted, layer 2's q_proj would have rank 6 and every alpha would be 1. "proj" names no module.
RANKS = {r"1\.self_attn\.q_proj": 3, "q_proj": 5, r".*layers\.2.*": 6}
ALPHAS = {r"^model\.layers\.0\.self_attn\.q_proj": 9, "proj": 7, r"k_proj": 5, r".*_proj": 1}
pattern_order = lora(
    2, 4, ["q_proj", "k_proj"], "rank_pattern", "alpha_pattern", "pattern order",
    rank_pattern=RANKS, alpha_pattern=ALPHAS, patch={"rank_pattern": RANKS, "alpha_pattern": ALPHAS},
)

ADAPTERS = {
    "llama-gqa": {
        "attn-r4": attn_r4,
        "qv-r1-regex": qv_r1_regex,
        "all-r8-bf16": all_r8_bf16,
        "mixed-rslora": mixed_rslora,
        "all-linear": all_linear,
        "qv-r16": lora(16, 32, ["q_proj", "v_proj"], "r=16", "target_modules=list"),
        "rslora": lora(4, 8, ["q_proj", "up_proj"], "use_rslora", use_rslora=True),
        "pattern-order": pattern_order,
        "layers-list": lora(4, 8, ["q_proj", "down_proj"], "layers_to_transform=list", layers_to_transform=[0, 2]),
        "layers-int-pattern": lora(4, 8, ["v_proj", "up_proj"], "layers_to_transform=int", "layers_pattern=str", layers_to_transform=1, layers_pattern="layers"),
        "layers-patterns": lora(2, 4, ["o_proj"], "layers_to_transform=list", "layers_pattern=list", layers_to_transform=[1, 2], layers_pattern=["blocks", "layers"]),
        # A module named in full is taken whatever layers_to_transform says.
        "layers-full-name": lora(2, 4, ["model.layers.2.mlp.up_proj", "q_proj"], "target_modules=list of full names", "layers_to_transform=list", layers_to_transform=[0]),
        "exclude-list": lora(2, 4, ALL, "exclude_modules=list", exclude_modules=["k_proj", "model.layers.1.mlp.down_proj"]),
        "exclude-regex": lora(2, 4, "all-linear", "exclude_modules=regex", "target_modules=all-linear", exclude_modules=r".*\.(0|2)\.mlp\..*", patch={"target_modules": "all-linear"}),
        "lookahead-regex": lora(2, 4, r"(?!.*lm_head).*\.(?:up|q)_proj", "target_modules=regex with look-ahead"),
        "fan-in-fan-out": lora(4, 8, ["q_proj", "down_proj"], "fan_in_fan_out", patch={"fan_in_fan_out": True}),
        "lm-head": lora(4, 8, ["q_proj", "lm_head"], "lm_head"),
        "embed": lora(4, 8, ["embed_tokens", "v_proj"], "embed_tokens"),
        "embed-and-head": lora(4, 6, ["embed_tokens", "lm_head", "o_proj"], "embed_tokens", "lm_head", "use_rslora", "dtype=float32", use_rslora=True, dtype="float32"),
        "embed-full-same": lora(2, 4, ["embed_tokens", "q_proj"], "embed_tokens", "embedding saved in full, unchanged", embeddings="auto"),
        "head-full-same": lora(2, 4, ["lm_head"], "lm_head", "lm_head saved in full, unchanged", embeddings="auto"),
        "embed-full-changed": lora(2, 4, ["embed_tokens", "q_proj"], "embed_tokens", "embedding saved in full, changed", embeddings="auto", shift=True),
        "regex-everything": lora(2, 4, r".*(embed_tokens|lm_head|[qv]_proj)", "target_modules=regex", "embed_tokens", "lm_head"),
    },
    "llama-tied": {
        "attn-r4": attn_r4,
        "embed": lora(4, 8, ["embed_tokens"], "embed_tokens", "tied"),
        "lm-head": lora(4, 8, ["lm_head"], "lm_head", "tied"),
        "embed-and-head": lora(4, 8, ["embed_tokens", "lm_head", "q_proj"], "embed_tokens", "lm_head", "tied"),
        "ensure-weight-tying": lora(4, 8, ["embed_tokens", "q_proj"], "embed_tokens", "lm_head", "tied", "ensure_weight_tying", ensure_weight_tying=True, optional=True),
        "embed-full-same": lora(2, 4, ["embed_tokens", "q_proj"], "embed_tokens", "embedding saved in full, unchanged", "tied", embeddings="auto"),
        "embed-full-changed": lora(2, 4, ["embed_tokens", "q_proj"], "embed_tokens", "embedding saved in full, changed", "tied", embeddings="auto", shift=True),
        "all-linear": all_linear,
    },
    "llama-headdim": {"all-r8-bf16": all_r8_bf16, "mixed-rslora": mixed_rslora, "qv-r1-regex": qv_r1_regex},
    "llama-bias": {
        "bias-none": attn_r4,
        "bias-all": lora(4, 8, ["q_proj", "down_proj"], "bias=all", "dtype=float32", bias="all", dtype="float32"),
        "bias-lora-only": lora(4, 8, ["q_proj", "down_proj"], "bias=lora_only", bias="lora_only"),
        "bias-lora-only-rslora": lora(2, 4, ALL, "bias=lora_only", "use_rslora", bias="lora_only", use_rslora=True),
        "fan-in-fan-out": lora(4, 8, ALL, "fan_in_fan_out", patch={"fan_in_fan_out": True}),
        "lora-bias": lora(2, 4, ["q_proj", "up_proj"], "lora_bias", lora_bias=True, optional=True),
    },
    "llama-rope-linear": {"attn-r4": attn_r4},
    "llama-rope-llama3": {"attn-r4": attn_r4},
    "llama-rope-yarn": {"attn-r4": attn_r4},
    "llama-rope-yarn-explicit": {"attn-r4": attn_r4},
    "mistral-window": {"all-r8-bf16": all_r8_bf16, "mixed-rslora": mixed_rslora, "qv-r1-regex": qv_r1_regex, "mlp-r4": mlp_r4},
    "mistral-full": {"all-linear": all_linear, "attn-r4": attn_r4, "embed-and-head": lora(2, 4, ["embed_tokens", "lm_head"], "embed_tokens", "lm_head")},
    "qwen2": {
        "all-r8-bf16": all_r8_bf16,
        "mixed-rslora": mixed_rslora,
        "bias-all": lora(4, 8, ["q_proj", "down_proj"], "bias=all", "dtype=float32", bias="all", dtype="float32"),
        "bias-lora-only": lora(4, 8, ["k_proj", "o_proj"], "bias=lora_only", bias="lora_only"),
        "embed": lora(4, 8, ["embed_tokens", "v_proj"], "embed_tokens", "tied"),
    },
    "qwen2-window": {"attn-r4": attn_r4, "all-linear": all_linear, "layers-list": lora(4, 8, ["k_proj", "up_proj"], "layers_to_transform=list", layers_to_transform=[1, 2])},
    "qwen3": {"all-r8-bf16": all_r8_bf16, "mixed-rslora": mixed_rslora, "attn-r4": attn_r4, "lm-head": lora(4, 8, ["lm_head", "gate_proj"], "lm_head", "tied")},
    "smollm": {"all-r8-bf16": all_r8_bf16, "mixed-rslora": mixed_rslora, "qv-r1-regex": qv_r1_regex, "all-linear": all_linear, "exclude-list": lora(2, 4, ATTN, "exclude_modules=list", exclude_modules=["k_proj"])},
}

# Saved by PEFT too, but outside what Chorale serves: each is refused, naming the field.
REFUSED = {
    "llama-tied": {
        "dora": ("use_dora", lora(2, 4, ["q_proj"], "use_dora", use_dora=True)),
        "modules-to-save": ("modules_to_save", lora(2, 4, ["q_proj"], "modules_to_save", modules_to_save=["lm_head"])),
        "trainable-tokens": ("trainable_token_indices", lora(2, 4, ["q_proj"], "trainable_token_indices", trainable_token_indices=[3, 5])),
    },
}

# Cases whose logits are also computed with torch all in bfloat16.
BF16_RUN = {
    "llama-gqa": ("base", "attn-r4", "all-r8-bf16", "mixed-rslora", "embed-and-head"),
    "qwen3": ("base", "all-r8-bf16", "mixed-rslora", "attn-r4", "lm-head"),
    "smollm": ("base", "all-r8-bf16", "mixed-rslora", "all-linear"),
}
