"""Writes floats.safetensors with the reference implementation (PyPI
safetensors, numpy, ml_dtypes) and floats.json with what ml_dtypes says each
element is, as f32 bit patterns.

    pip install numpy==2.4.6 ml_dtypes==0.6.0 safetensors==0.8.0
    python make_golden.py
"""
import json
import ml_dtypes
import numpy as np
from safetensors import TensorSpec, serialize

u8 = np.arange(256, dtype=np.uint8)
rng = np.random.default_rng(7)
u16 = np.concatenate([
    np.array([0, 1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0x7C01, 0x7E00, 0x8000, 0x8001, 0xFC00, 0xFE00, 0x3C00], np.uint16),
    rng.integers(0, 1 << 16, 300, dtype=np.uint16)])
u32 = np.concatenate([
    np.array([0, 1, 0x7F800000, 0xFF800000, 0x7FC00000, 0x80000000, 0x3F800000], np.uint32),
    rng.integers(0, 1 << 32, 50, dtype=np.uint32)])
f64 = np.array([0.0, -0.0, 1 / 3, 1e300, -1e300, 1e-310, 1 + 2.0**-24, 1 + 3 * 2.0**-24, np.inf, np.nan])

cases = {
    "f8_e4m3": ("float8_e4m3fn", u8, ml_dtypes.float8_e4m3fn),
    "f8_e5m2": ("float8_e5m2", u8, ml_dtypes.float8_e5m2),
    "f8_e8m0": ("float8_e8m0fnu", u8, ml_dtypes.float8_e8m0fnu),
    "f16": ("float16", u16, np.float16),
    "bf16": ("bfloat16", u16, ml_dtypes.bfloat16),
    "f32": ("float32", u32, np.float32),
    "f64": ("float64", f64.view(np.uint64), np.float64),
    "i64": ("int64", np.arange(6, dtype=np.int64).reshape(2, 3), None),
    "bool": ("bool", np.array([1, 0, 1], np.uint8), None),
    "scalar": ("float32", np.array(0x40490FDB, np.uint32), np.float32),
    "empty": ("float32", np.zeros((0, 4), np.uint32), np.float32),
    "naïve \"name\"\n": ("uint8", u8[:3], None),
}
tensors, want = {}, {}
with np.errstate(all="ignore"):
    for name, (dtype, raw, as_type) in cases.items():
        tensors[name] = TensorSpec(
            dtype=dtype, shape=raw.shape, data_ptr=raw.ctypes.data, data_len=raw.nbytes)
        if as_type is not None:
            f32 = np.frombuffer(raw.tobytes(), dtype=as_type).astype(np.float32)
            want[name] = f32.view(np.uint32).tolist()
open("floats.safetensors", "wb").write(serialize(tensors, {"format": "np"}))
json.dump(want, open("floats.json", "w"), separators=(",", ":"), sort_keys=True)
