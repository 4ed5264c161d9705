"""GGUF versions of tiny models, as llama.cpp's converter lays them out.

The expected logits come from the dequantised tensors, loaded back into
transformers, so that quantisation error is no part of the comparison.
"""

import math
import os
import shutil

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

import models as tiny

Q = gguf.GGMLQuantizationType

# One type per role, so that one small file meets most of the readers.
MIXED = {"attn_q": Q.Q8_0, "attn_k": Q.Q4_1, "attn_v": Q.Q5_0, "attn_output": Q.Q5_1, "ffn_gate": Q.Q4_0, "ffn_up": Q.F16, "ffn_down": Q.BF16, "token_embd": Q.Q8_0, "output": Q.F32}
HALF = dict.fromkeys(MIXED, Q.F16)

GGUFS = {
    # name: (model it is made from, architecture, types, adapters of that model, note)
    "llama-gqa-gguf": ("llama-gqa", "llama", MIXED, ["attn-r4", "all-r8-bf16", "mixed-rslora", "embed-and-head"], "Llama GGUF: q and k rows permuted; Q8_0, Q4_1, Q5_0, Q5_1, Q4_0, F16, BF16 and F32 tensors"),
    "llama3-gguf": ("llama-rope-llama3", "llama", HALF, ["attn-r4"], "Llama GGUF with rope_freqs.weight (the llama3 scaling), tied head, F16"),
    "qwen3-gguf": ("qwen3", "qwen3", HALF, ["all-r8-bf16", "lm-head"], "Qwen3 GGUF: q and k rows NOT permuted, q/k norms, tied head, F16"),
}

LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(key):
    """model.layers.0.self_attn.q_proj.weight → (blk.0.attn_q, .weight)"""
    stem, _, kind = key.rpartition(".")
    if stem in TOP:
        return TOP[stem], kind
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{LAYER[rest]}", kind


def permute(rows, heads):
    """Hugging Face order (halves) to GGUF order (pairs), on the rows of q or k."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(rows.shape)


def unpermute(rows, heads):
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def heads_of(config, role):
    return config.num_attention_heads if role == "attn_q" else config.num_key_value_heads


def vocabulary(n):
    """n byte-level BPE tokens with their merges: specials, letters, digits, marks, blanks, some pairs."""
    tokens = ["<unk>", "<s>", "</s>"] + list("abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIST.,:;!?'()-") + ["Ġ", "Ċ"]
    pairs = "th in er an re on at en Ġt Ġa is or es it ou Ġs al ar st ed le Ġw nd Ġo to Ġc ng ve me de hi Ġb Ġf li".split()
    merges = [f"{a} {b}" for a, b in pairs][: n - len(tokens)]
    tokens += [m.replace(" ", "") for m in merges]
    assert len(tokens) == n, len(tokens)
    return tokens, merges


def write_metadata(w, config, arch):
    w.add_name(f"chorale tiny {arch}")
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_rope_freq_base(config.rope_theta)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if arch == "llama":
        w.add_rope_dimension_count(head_dim)
    if head_dim * config.num_attention_heads != config.hidden_size:
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    w.add_vocab_size(config.vocab_size)
    tokens, merges = vocabulary(config.vocab_size)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    w.add_token_merges(merges)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_add_bos_token(False)


def llama3_factors(config):
    """rope_freqs.weight: what each frequency is divided by."""
    s = config.rope_scaling
    dim = config.head_dim
    out = []
    for i in range(0, dim, 2):
        freq = config.rope_theta ** (-i / dim)
        wavelen = 2 * math.pi / freq
        old = s["original_max_position_embeddings"]
        if wavelen < old / s["high_freq_factor"]:
            out.append(1.0)
        elif wavelen > old / s["low_freq_factor"]:
            out.append(s["factor"])
        else:
            smooth = (old / wavelen - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
            out.append(1 / ((1 - smooth) / s["factor"] + smooth))
    return np.array(out, dtype=np.float32)


def write(path, model, arch, types):
    """Writes the GGUF; returns the state dict that a reader of it must arrive at."""
    config = model.config
    w = gguf.GGUFWriter(path, arch)
    write_metadata(w, config, arch)
    read_back = {}
    if (config.rope_scaling or {}).get("rope_type") == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(config))
    for key, p in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name, kind = gguf_name(key)
        role = name.rpartition(".")[2]
        a = p.detach().numpy().astype(np.float32)
        turned = arch == "llama" and role in ("attn_q", "attn_k")
        if turned:
            a = permute(a, heads_of(config, role))
        kindof = types.get(role, Q.F32) if a.ndim == 2 else Q.F32
        if kindof not in (Q.F32, Q.F16, Q.BF16) and a.shape[1] % 32:
            kindof = Q.F16  # a block needs 32 values
        raw = gguf.quants.quantize(a, kindof)
        w.add_tensor(f"{name}.{kind}", raw, raw_dtype=kindof)
        back = gguf.quants.dequantize(raw, kindof).astype(np.float32).reshape(a.shape)
        if turned:
            back = unpermute(back, heads_of(config, role))
        read_back[key] = torch.from_numpy(np.ascontiguousarray(back))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return read_back


def make(name, out, prompts, run, summarise):
    source, arch, types, names, note = GGUFS[name]
    folder = os.path.join(out, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    model = tiny.build(source)
    tensors = write(os.path.join(folder, "model.gguf"), model, arch, types)

    def load(_dtype):
        m = transformers.AutoModelForCausalLM.from_config(tiny.config_of(source), attn_implementation="eager", dtype=torch.float32)
        missing, unexpected = m.load_state_dict(tensors, strict=False)
        assert not unexpected and missing in ([], ["lm_head.weight"]), (missing, unexpected)
        m.tie_weights()
        return m.eval()

    ids = prompts(source, model.config.vocab_size)
    goldens = {f"ids/{i}": x.to(torch.int32) for i, x in enumerate(ids)}
    plain = run(load, None, ids, False)
    goldens |= {f"base/{k}": v for k, v in plain.items()}
    cases = [{"name": "base", "adapter": None, "varieties": []}]
    for adapter in names:
        got = run(load, os.path.join(out, source, "adapters", adapter), ids, False)
        goldens |= {f"{adapter}/{k}": v for k, v in got.items()}
        cases.append(summarise({"name": adapter, "adapter": f"../{source}/adapters/{adapter}", "varieties": ["PEFT adapter on GGUF"]}, got, plain))
    save_file({k: v.contiguous() for k, v in goldens.items()}, os.path.join(folder, "goldens.safetensors"))
    return {"name": name, "family": tiny.MODELS[source][0], "note": note, "weights": "model.gguf", "weights_dtype": "mixed" if types is MIXED else "float16", "prompt_lengths": [len(x) for x in ids], "cases": cases}
