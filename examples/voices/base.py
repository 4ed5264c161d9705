"""SmolLM2-135M-Instruct from its GGUF file, as a transformers model and a tokenizers object.

transformers can read a GGUF itself, but gets this model's tokenizer wrong (it
adds a BOS, no longer splits digits and takes another EOS), so both are built
here from the file's own tensors, vocabulary and merges.
"""

import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
EOS = 2  # <|im_end|>

_BLOCK = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
          "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
          "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def chatml(prompt):
    """A single user message as the model's chat template renders it."""
    return (f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")


def unpermute(weight, heads):
    """Rows of q or k from GGUF's order (rope pairs adjacent) to transformers' (halves): [heads*d, in]."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _name(name):
    """A GGUF tensor's name in transformers."""
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{_BLOCK[part]}.weight"


def load(path, dtype=torch.float32, device="cpu"):
    """(model, tokenizer) of the GGUF file at `path`."""
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.fields[key].contents()
    arch = lambda key: field(f"llama.{key}")
    config = LlamaConfig(
        vocab_size=len(field("tokenizer.ggml.tokens")), hidden_size=arch("embedding_length"),
        intermediate_size=arch("feed_forward_length"), num_hidden_layers=arch("block_count"),
        num_attention_heads=arch("attention.head_count"), num_key_value_heads=arch("attention.head_count_kv"),
        max_position_embeddings=arch("context_length"), rms_norm_eps=arch("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=EOS, pad_token_id=EOS,
        rope_theta=arch("rope.freq_base"), rope_parameters={"rope_type": "default", "rope_theta": arch("rope.freq_base")})
    config._name_or_path = NAME
    model = LlamaForCausalLM(config)
    state = {}
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if ".attn_q." in tensor.name:
            weight = unpermute(weight, config.num_attention_heads)
        if ".attn_k." in tensor.name:
            weight = unpermute(weight, config.num_key_value_heads)
        state[_name(tensor.name)] = torch.from_numpy(np.ascontiguousarray(weight))
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.to(dtype=dtype, device=device).eval(), tokenizer(reader)


def tokenizer(reader):
    """Byte-level BPE from the file's vocabulary: each digit alone, then GPT-2's pattern; no BOS."""
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, kinds) if kind == 3])
    return made
