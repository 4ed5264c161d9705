"""Writes defaults.json: what transformers' configuration classes say when a
config.json holds nothing but model_type, with and without a window (Qwen's
sliding_window counts only when use_sliding_window is true), and with
num_key_value_heads null.

  python defaults.py > defaults.json          (transformers 4.57)
"""

import json

from transformers import AutoConfig

KEYS = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
    "max_position_embeddings rms_norm_eps hidden_act tie_word_embeddings attention_bias mlp_bias rope_theta "
    "sliding_window max_window_layers"
).split()

cases = []
for family in ["llama", "mistral", "qwen2", "qwen3"]:
    for given in [{}, {"use_sliding_window": True}, {"num_key_value_heads": None}, {"sliding_window": None}, {"num_attention_heads": 64}]:
        if "use_sliding_window" in given and not family.startswith("qwen"):
            continue
        config = AutoConfig.for_model(family, **given)
        got = {key: getattr(config, key) for key in KEYS if getattr(config, key, None) is not None}
        if got.get("head_dim") is None:
            got["head_dim"] = config.hidden_size // config.num_attention_heads
        if not getattr(config, "sliding_window", None):
            got.pop("max_window_layers", None)
        cases.append({"given": {"model_type": family, **given}, "want": got})
print(json.dumps(cases, indent=1))
