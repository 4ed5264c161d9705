"""Golden data for internal/peft: what PEFT itself makes of odd configs.

    pip install peft==0.21.2 transformers==4.57.6 torch (CPU)
    python make_golden.py ../../../internal/peft/testdata

For each case a tiny random Llama gets an adapter, which is saved, patched
where the case says so (as a hand-written file would be), and loaded again by
PEFT onto a fresh base. goldens.json holds per case the config file's text, the
names, dtypes and shapes of the saved tensors, and from the loaded model each
module's rank, alpha and scaling; and per base model its adaptable modules.
adapter/ holds one case's two files as PEFT wrote them.
"""
import json
import pathlib
import shutil
import sys
import tempfile

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

ATTN = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
SIZES = dict(vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=32)
BASES = {
    "plain": dict(tie_word_embeddings=False),
    "tied": dict(tie_word_embeddings=True),
    "bias": dict(tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
}


def case(base="plain", patch=None, embeddings=False, **config):
    return base, dict(r=4, lora_alpha=6) | config, patch or {}, embeddings


RANKS = {r"1\.self_attn\.q_proj": 3, "q_proj": 5, r".*layers\.2.*": 6, "nothing": 7}
ALPHAS = {r"^model\.layers\.0\.self_attn\.q_proj": 9, "proj": 7, "k_proj": 5.5, r".*_proj": 1}
CASES = {
    "list": case(target_modules=ATTN + MLP),
    "regex": case(target_modules=r".*\.self_attn\.(q|v)_proj"),
    "regex alternation at the top": case(target_modules=r"model\.layers\.0\.mlp\.up_proj|.*k_proj"),
    "regex look-ahead": case(target_modules=r"^(?!.*lm_head)(?!.*\.1\.).*\.(?:up|q)_proj"),
    "regex look-behind": case(target_modules=r".*(?<=self_attn\.)q_proj"),
    "regex back-reference": case(target_modules=r"model\.layers\.(\d)\.self_attn\.q_proj|(.)m_hea(?:x\2|d)"),
    "regex open repeat": case(target_modules=r"model\.layers\.[01]{,1}\.mlp\.up_proj"),
    "regex flags": case(target_modules=r"(?i).*LAYERS\.\d+\.MLP\.(?P<which>up|down)_proj"),
    "regex everything": case(target_modules=r".*(embed_tokens|lm_head|[qv]_proj)"),
    "all-linear": case(target_modules="all-linear", patch={"target_modules": "all-linear"}),
    "all-linear in capitals": case(target_modules="all-linear", patch={"target_modules": "ALL-Linear"}),
    "all-linear with exclude regex": case(target_modules="all-linear", exclude_modules=r".*\.(0|2)\.mlp\..*", patch={"target_modules": "all-linear"}),
    "all-linear with exclude list": case(target_modules="all-linear", exclude_modules=["k_proj"], patch={"target_modules": "all-linear"}),
    "exclude list": case(target_modules=ATTN + MLP, exclude_modules=["k_proj", "model.layers.1.mlp.down_proj", "2.mlp.up_proj"]),
    "exclude by part of a name": case(target_modules=ATTN, exclude_modules=["proj", "self_attn", "layers.1"]),
    "exclude regex with list": case(target_modules=ATTN, exclude_modules=r"model\.layers\.[02]\..*"),
    "suffix with a dot": case(target_modules=["self_attn.q_proj", "2.mlp.up_proj"]),
    "full names": case(target_modules=["model.layers.2.mlp.up_proj", "model.layers.0.self_attn.q_proj"]),
    "layers list": case(target_modules=["q_proj", "down_proj"], layers_to_transform=[0, 2]),
    "layers empty list": case(target_modules=["q_proj", "down_proj"], layers_to_transform=[]),
    "layers integer": case(target_modules=["q_proj"], layers_to_transform=1),
    "layers pattern": case(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers"),
    "layers patterns": case(target_modules=["o_proj"], layers_to_transform=[1, 2], layers_pattern=["blocks", "layers"]),
    "layers pattern as regex": case(target_modules=["o_proj"], layers_to_transform=[1, 2], layers_pattern="(?:blocks|lay.*)"),
    "layers and full name": case(target_modules=["model.layers.2.mlp.up_proj", "q_proj"], layers_to_transform=[0]),
    "layers and head": case(target_modules=["lm_head", "q_proj"], layers_to_transform=[0]),
    "layers and embedding": case(target_modules=["embed_tokens", "q_proj"], layers_to_transform=[0]),
    "rank_pattern": case(target_modules=ATTN, rank_pattern={"q_proj": 2, "layers.1.self_attn.k_proj": 8, "attn.v_proj": 3}),
    "alpha_pattern": case(target_modules=ATTN, alpha_pattern={"self_attn.q_proj": 2, r"(0|2)\.self_attn\.k_proj": 0.5}),
    "rank and alpha with rslora": case(target_modules=ATTN, use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}),
    "first pattern in the file wins": case(target_modules=["q_proj", "k_proj"], rank_pattern=RANKS, alpha_pattern=ALPHAS, patch={"rank_pattern": RANKS, "alpha_pattern": ALPHAS}),
    "pattern with look-ahead": case(target_modules=ATTN, rank_pattern={r"(?!.*\.0\.).*q_proj": 7}),
    "pattern with alternation": case(target_modules=ATTN, rank_pattern={r"q_proj|0.*|v_pro": 7}),
    "rslora": case(target_modules=["q_proj"], r=8, lora_alpha=4, use_rslora=True),
    "fractional alpha": case(target_modules=["q_proj"], lora_alpha=0.1),
    "head": case(target_modules=["q_proj", "lm_head"]),
    "head, tied": case("tied", target_modules=["lm_head"]),
    "embedding": case(target_modules=["embed_tokens", "v_proj"]),
    "embedding and head, tied": case("tied", target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "embedding saved in full": case(target_modules=["embed_tokens", "q_proj"], embeddings="auto"),
    "head saved in full": case(target_modules=["lm_head"], embeddings="auto"),
    "both saved in full": case(target_modules=["lm_head", "embed_tokens"], embeddings="auto"),
    "embeddings saved without being targets": case(target_modules=["q_proj"], embeddings=True),
    "bias all": case("bias", target_modules=["q_proj", "down_proj"], bias="all"),
    "bias all without biases": case(target_modules=["q_proj"], bias="all"),
    "bias lora_only": case("bias", target_modules=["q_proj", "down_proj"], bias="lora_only"),
    "lora_bias": case("bias", target_modules=["q_proj", "down_proj"], lora_bias=True),
    "lora_bias with bias all": case("bias", target_modules=["q_proj"], lora_bias=True, bias="all"),
    "fan_in_fan_out": case(target_modules=["q_proj", "down_proj"], patch={"fan_in_fan_out": True}),
    "gaussian": case(target_modules=["q_proj"], init_lora_weights="gaussian"),
    "orthogonal": case(target_modules=["q_proj"], init_lora_weights="orthogonal"),
    "mica": case(target_modules=["q_proj"], init_lora_weights="mica"),
    "random": case(target_modules=["q_proj"], init_lora_weights=False),
    "weight tying asked for without tied targets": case("tied", target_modules=["q_proj"], ensure_weight_tying=True),
}


def model(base):
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**SIZES, **BASES[base]))


def modules(base):
    out = []
    for name, m in model(base).named_modules():
        if isinstance(m, torch.nn.Embedding):
            out.append(dict(name=name, kind="embedding", In=m.num_embeddings, out=m.embedding_dim, bias=False))
        elif isinstance(m, torch.nn.Linear):
            kind = "head" if name == "lm_head" else "linear"
            out.append(dict(name=name, kind=kind, In=m.in_features, out=m.out_features, bias=m.bias is not None))
    return out


def run(name, out):
    base, config, patch, embeddings = CASES[name]
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        tuned = get_peft_model(model(base), LoraConfig(task_type="CAUSAL_LM", **config))
        tuned.save_pretrained(tmp, save_embedding_layers=embeddings)
        path = tmp / "adapter_config.json"
        text = json.dumps(json.loads(path.read_text()) | patch)
        path.write_text(text)
        loaded = PeftModel.from_pretrained(model(base), tmp)
        table = {}
        for key, m in loaded.base_model.model.named_modules():
            if isinstance(m, LoraLayer):
                table[key] = [m.r["default"], m.lora_alpha["default"], m.scaling["default"]]
        tensors = load_file(tmp / "adapter_model.safetensors")
        if name == "rank and alpha with rslora":
            (out / "adapter").mkdir(exist_ok=True)
            for f in ("adapter_config.json", "adapter_model.safetensors"):
                shutil.copyfile(tmp / f, out / "adapter" / f)
    return dict(
        base=base, config=text, modules=table,
        tensors={k: [str(t.dtype).removeprefix("torch."), list(t.shape)] for k, t in sorted(tensors.items())})


def main(out):
    cases = {name: run(name, out) for name in CASES}
    doc = dict(
        versions=dict(peft=peft.__version__, transformers=transformers.__version__, torch=torch.__version__),
        bases={b: modules(b) for b in BASES}, cases=cases)
    (out / "goldens.json").write_text(json.dumps(doc, separators=(",", ":"), ensure_ascii=False) + "\n")


main(pathlib.Path(sys.argv[1]))
