"""Makes the tiny models, their adapters and their goldens.

    tiny.py OUT          (worker/model/testdata)

Everything is seeded by name. The reference is transformers + PEFT in float32 with
eager attention, on one thread; each adapter is first saved by PEFT and then loaded
afresh from its folder, so that the goldens follow the files and not the objects
that wrote them.
"""

import argparse
import json
import math
import os
import shutil
import warnings

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

import adapters as zoo
import ggufs
import models as tiny

LENGTHS = (5, 33)  # within a window of 8; past two KV pages of 16
FULL_PRECISION_NOISE = 1e-4  # what a parity test allows; an adapter must move logits by far more


def prompts(name, vocab):
    g = tiny.seed("prompt", name)
    # 0, 1 and 2 are unk, bos and eos; a repeated token at the far end makes windows and rope show.
    ids = [torch.randint(3, vocab, (n,), generator=g) for n in LENGTHS]
    ids[0][0] = 1
    ids[1][-1] = ids[1][0]
    return ids


@torch.no_grad()
def logits_of(model, ids):
    return model(input_ids=ids[None], use_cache=False).logits[0]


def trained(key, p, adapter, noise):
    """A value for the parameter as if training had moved it; None leaves it."""
    if ".lora_A." in key:
        return noise / math.sqrt(p.shape[1])
    if key.endswith("lora_B.default.bias"):
        return 0.3 * noise
    if ".lora_B." in key:
        return 0.2 * noise
    if "lora_embedding_A" in key:
        return 0.5 * noise
    if "lora_embedding_B" in key:
        return 0.1 * noise
    if "lora_magnitude_vector" in key or "trainable_tokens" in key or "modules_to_save" in key:
        return p + 0.1 * noise
    if adapter.shift and "embed_tokens" in key:
        return p + 0.1 * noise
    if p.requires_grad and key.endswith("bias"):
        return p + 0.3 * noise
    return None


@torch.no_grad()
def randomise(model, adapter, g):
    """PEFT initialises B to zero; here every trainable tensor gets a value the dtype on disk can hold."""
    for key, p in model.named_parameters():
        value = trained(key, p, adapter, torch.randn(p.shape, generator=g))
        if value is not None:
            p.copy_(value.to(getattr(torch, adapter.dtype)).to(p.dtype))


def rewrite(path, change):
    with open(path) as f:
        fields = json.load(f)
    change(fields)
    with open(path, "w") as f:
        json.dump(fields, f, indent=2)  # keeps the order of patterns
        f.write("\n")


def save_adapter(model_name, name, adapter, folder):
    """Builds the adapter on a fresh model, lets PEFT save it, and returns that model."""
    model = peft.get_peft_model(tiny.build(model_name), peft.LoraConfig(**adapter.config))
    randomise(model, adapter, tiny.seed("adapter", model_name, name))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, save_embedding_layers=adapter.embeddings)
    os.remove(os.path.join(folder, "README.md"))

    weights = os.path.join(folder, "adapter_model.safetensors")
    tensors = {k: v.to(getattr(torch, adapter.dtype)).contiguous() for k, v in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})

    def finish(fields):
        fields["base_model_name_or_path"] = f"chorale-testdata/{model_name}"
        fields.update(adapter.patch)
        for key in ("target_modules", "exclude_modules"):  # sets: their order is the hash's
            if isinstance(fields.get(key), list):
                fields[key].sort()

    rewrite(os.path.join(folder, "adapter_config.json"), finish)
    return model.eval()


def run(base_of, folder, ids, bf16):
    """Logits of the base (folder None) or of an adapter read from its folder, for every prompt."""
    out = {}
    for dtype, suffix in ((torch.float32, ""), (torch.bfloat16, "_bf16")):
        if dtype == torch.bfloat16 and not bf16:
            continue
        model = base_of(dtype)
        if folder:
            # PEFT would keep the adapter in float32 beside a bfloat16 base.
            model = peft.PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).eval()
        # Only parameters: rope's frequencies stay float32, as from_pretrained leaves them.
        assert all(p.dtype == dtype for p in model.parameters())
        for i, x in enumerate(ids):
            out[f"{i}/logits{suffix}"] = logits_of(model, x)
    return out


def logprob_gap(exact, rounded):
    """Mean and maximum |Δlogprob| over all positions and tokens of one prompt."""
    gap = (torch.log_softmax(exact, -1) - torch.log_softmax(rounded.float(), -1)).abs()
    return gap.mean().item(), gap.max().item()


def summarise(case, out, base):
    """The figures of index.json about one case."""
    if base is not None:
        case["moves"] = round(max((out[f"{i}/logits"] - base[f"{i}/logits"]).abs().mean().item() for i in range(len(LENGTHS))), 4)
        if case["moves"] < 1000 * FULL_PRECISION_NOISE:
            raise SystemExit(f"{case['name']} hardly changes the logits: {case['moves']}")
    gaps = [logprob_gap(out[f"{i}/logits"], out[f"{i}/logits_bf16"]) for i in range(len(LENGTHS)) if f"{i}/logits_bf16" in out]
    if gaps:
        case["bf16"] = {"mean_abs_dlogprob": round(max(m for m, _ in gaps), 5), "max_abs_dlogprob": round(max(m for _, m in gaps), 4)}
    return case


def make_model(name, out):
    folder = os.path.join(out, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    family, _, _, dtype, note = tiny.MODELS[name]
    base = tiny.build(name)
    tensors = {k: v.to(getattr(torch, dtype)).contiguous() for k, v in base.state_dict().items()}
    if base.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    for file, fields in tiny.spellings(base.config).items():
        with open(os.path.join(folder, file), "w") as f:
            json.dump(fields, f, indent=2, sort_keys=True)
            f.write("\n")

    def load(dtype=torch.float32):
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()

    check_spellings(folder, load)
    ids, bf16 = prompts(name, base.config.vocab_size), zoo.BF16_RUN.get(name, ())
    goldens = {f"ids/{i}": x.to(torch.int32) for i, x in enumerate(ids)}
    plain = run(load, None, ids, "base" in bf16)
    cases = [summarise({"name": "base", "adapter": None, "varieties": []}, plain, None)]
    goldens |= {f"base/{k}": v for k, v in plain.items()}
    for adapter_name, adapter in zoo.ADAPTERS[name].items():
        where = os.path.join(folder, "adapters", adapter_name)
        written = save_adapter(name, adapter_name, adapter, where)
        got = run(load, where, ids, adapter_name in bf16)
        check_reload(adapter_name, written, ids, got)
        case = {"name": adapter_name, "adapter": f"adapters/{adapter_name}", "varieties": adapter.varieties}
        if adapter.optional:
            case["optional"] = True
        cases.append(summarise(case, got, plain))
        goldens |= {f"{adapter_name}/{k}": v for k, v in got.items()}
    refused = []
    for adapter_name, (why, adapter) in zoo.REFUSED.get(name, {}).items():
        save_adapter(name, adapter_name, adapter, os.path.join(folder, "refused", adapter_name))
        refused.append({"name": adapter_name, "adapter": f"refused/{adapter_name}", "field": why})
    save_file({k: v.contiguous() for k, v in goldens.items()}, os.path.join(folder, "goldens.safetensors"))
    entry = {"name": name, "family": family, "note": note, "weights": "model.safetensors", "weights_dtype": dtype}
    entry["configs"] = sorted(tiny.spellings(base.config))
    entry["prompt_lengths"] = list(LENGTHS)
    return entry | {"cases": cases} | ({"refused": refused} if refused else {})


def check_reload(name, written, ids, got):
    """What PEFT loads from the folder is what it held when it saved."""
    for i, x in enumerate(ids):
        gap = (logits_of(written, x) - got[f"{i}/logits"]).abs().max().item()
        if gap > FULL_PRECISION_NOISE:
            raise SystemExit(f"{name}: the saved adapter differs from the one in memory by {gap}")


def check_spellings(folder, load):
    """transformers reads config.old.json as it reads config.json."""
    path = os.path.join(folder, "config.json")
    now = load()
    kept = open(path).read()
    shutil.copy(os.path.join(folder, "config.old.json"), path)
    old = load()
    with open(path, "w") as f:
        f.write(kept)
    x = torch.arange(3, 36)
    if not torch.equal(logits_of(now, x), logits_of(old, x)):
        raise SystemExit(f"{folder}: the old spelling of config.json gives other logits")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--only", nargs="*", help="models to make; index.json is not written then")
    args = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        raise SystemExit("set PYTHONHASHSEED=0: PEFT writes sets in hash order (run.sh does)")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")

    entries = []
    for name in tiny.MODELS:
        if args.only and name not in args.only:
            continue
        entries.append(make_model(name, args.out))
        print(name, [(c["name"], c.get("moves"), c.get("bf16")) for c in entries[-1]["cases"]], flush=True)
    for name in ggufs.GGUFS:
        if args.only and name not in args.only:
            continue
        entries.append(ggufs.make(name, args.out, prompts, run, summarise))
        print(name, [(c["name"], c.get("moves")) for c in entries[-1]["cases"]], flush=True)
    if args.only:
        return
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "peft": peft.__version__}
    with open(os.path.join(args.out, "index.json"), "w") as f:
        json.dump({"format": 1, "made_with": versions, "models": entries}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
