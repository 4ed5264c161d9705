"""Golden data for internal/gguf, from the reference Python implementation.

    pip install gguf==0.19.0 numpy==2.4.6
    python make_golden.py ../../../internal/gguf/testdata

types.gguf      written by gguf.GGUFWriter: metadata of every type; per tensor
                type one tensor "dequant.<TYPE>" [2, 512] of random valid
                blocks; "quantize.input" (F32) and "quantize.<TYPE>", what
                gguf.quants.quantize makes of it
types.f32       gguf.quants.dequantize of each dequant tensor, f32 little
                endian, in file order. Q8_K has no reference in Python; it is
                d times the signed byte.
"""
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter, GGUFValueType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

ROWS, COLS = 2, 512
# Byte offsets of the f16 scales in a block.
F16_AT = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ4_NL: [0], T.IQ4_XS: [0], T.MXFP4: [], T.Q8_K: [], T.F16: [0],
}
rng = np.random.default_rng(20261123)


def scales(n):
    """Finite f16: ordinary, subnormal, zero, negative."""
    s = rng.normal(0, 0.02, n).astype(np.float16)
    pick = rng.integers(0, 16, n)
    s[pick == 0] = 0
    s[pick == 1] = np.float16(6e-8) * rng.integers(1, 900, (pick == 1).sum())
    s[pick == 2] *= 1000
    return s.view(np.uint8).reshape(n, 2)


def blocks(t):
    size, width = GGML_QUANT_SIZES[t]
    n = ROWS * COLS // size
    b = rng.integers(0, 256, (n, width), dtype=np.uint8)
    for at in F16_AT[t]:
        b[:, at:at + 2] = scales(n)
    if t == T.Q8_K:
        b[:, :4] = rng.normal(0, 0.01, n).astype(np.float32).view(np.uint8).reshape(n, 4)
    if t == T.MXFP4:
        b[:, 0] = np.concatenate([[0, 1, 2, 3], rng.integers(100, 140, n - 4)])
    return b.reshape(ROWS, -1)


def main(out):
    w = GGUFWriter(f"{out}/types.gguf", "llama")
    w.add_uint8("t.uint8", 200)
    w.add_int8("t.int8", -100)
    w.add_uint16("t.uint16", 60000)
    w.add_int16("t.int16", -30000)
    w.add_uint32("t.uint32", 4000000000)
    w.add_int32("t.int32", -2000000000)
    w.add_uint64("t.uint64", 1 << 63)
    w.add_int64("t.int64", -(1 << 62))
    w.add_float32("t.float32", 1.5)
    w.add_float64("t.float64", 0.1)
    w.add_bool("t.true", True)
    w.add_bool("t.false", False)
    w.add_string("t.string", "naïve ☃")
    w.add_array("t.strings", ["a", "", "ü"])
    w.add_array("t.ints", [1, -2, 3])
    w.add_array("t.floats", [0.5, -0.25])
    w.add_array("t.bools", [True, False])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(["<s>", "</s>", "a", "b", "ab"])
    w.add_token_types([3, 3, 1, 1, 1])
    w.add_token_scores([0.0, 0.0, -1.0, -2.0, -3.5])
    w.add_token_merges(["a b"])
    w.add_bos_token_id(0)
    w.add_eos_token_id(1)
    w.add_add_bos_token(False)
    w.add_add_space_prefix(True)
    w.add_chat_template("{{ messages }}")

    want = []
    for t in [T.F32, T.BF16, *F16_AT]:
        if t == T.F32:
            data = rng.normal(size=(ROWS, COLS)).astype(np.float32)
        elif t == T.BF16:
            data = quantize(rng.normal(size=(ROWS, COLS)).astype(np.float32), t)
        elif t == T.F16:
            data = scales(ROWS * COLS).view(np.float16).reshape(ROWS, COLS)
        else:
            data = blocks(t)
        if t == T.Q8_K:
            b = data.reshape(-1, GGML_QUANT_SIZES[t][1])
            f32 = b[:, :4].copy().view(np.float32) * b[:, 4:260].copy().view(np.int8).astype(np.float32)
        else:
            f32 = dequantize(data, t)
        want.append(f32.astype("<f4").tobytes())
        w.add_tensor(f"dequant.{t.name}", data, raw_dtype=t)

    x = rng.normal(0, 1, (4, 64)).astype(np.float32)
    x[0, :32] = 0
    x[1, 3] = x[1].min() - 0.25  # unequal ends
    x[2] = np.round(x[2] * 4) / 4  # ties
    x[3] *= 1e-6  # subnormal scales
    w.add_tensor("quantize.input", x)
    for t in [T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1]:
        w.add_tensor(f"quantize.{t.name}", quantize(x, t), raw_dtype=t)

    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    open(f"{out}/types.f32", "wb").write(b"".join(want))


main(sys.argv[1])
