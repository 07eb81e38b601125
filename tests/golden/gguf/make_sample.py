#!/usr/bin/env python3
"""Makes sample.gguf beside this file with ggml's own writer (the package gguf): keys of every type
that data/gguf_writer.h can write, and tensors of every format, with made values. tests/test_gguf_writer.c
writes the same and compares bytes.

    python tests/golden/gguf/make_sample.py
"""
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Value

TENSORS = [  # name, shape, format
    ("token_embd.weight", (5, 64), Type.F32),
    ("blk.0.attn_norm.weight", (7,), Type.F32),
    ("blk.0.ffn_gate_up_exps.weight", (3, 2, 32), Type.F16),
    ("blk.0.attn_q.weight", (3, 11), Type.BF16),
    ("blk.0.attn_k.weight", (5, 96), Type.Q8_0),
    ("blk.0.attn_v.weight", (5, 32), Type.Q4_0),
    ("blk.0.ffn_down_exps.weight", (3, 2, 64), Type.MXFP4),
]


def values(shape):
    i = np.arange(np.prod(shape), dtype=np.int64)
    v = (i * 7919 % 10007).astype(np.float32) / np.float32(997) - np.float32(5)
    return v.reshape(shape)


def main():
    out = gguf.GGUFWriter(Path(__file__).with_name("sample.gguf"), "gemma4")
    out.add_key_value("a.count", 7, Value.UINT32)
    out.add_key_value("a.epsilon", 1e-6, Value.FLOAT32)
    out.add_key_value("a.yes", True, Value.BOOL)
    out.add_key_value("a.no", False, Value.BOOL)
    out.add_key_value("a.text", "größer\nals \"0\"", Value.STRING)
    out.add_key_value("a.counts", [2, 2, 4000000000], Value.ARRAY, Value.UINT32)
    out.add_key_value("a.signed", [3, -1], Value.ARRAY, Value.INT32)
    out.add_key_value("a.scores", [0.5, -1000.0], Value.ARRAY, Value.FLOAT32)
    out.add_key_value("a.pattern", [True, False, True], Value.ARRAY, Value.BOOL)
    out.add_key_value("a.pieces", ["<pad>", "\u2581", "a\u2581b"], Value.ARRAY, Value.STRING)
    for name, shape, kind in TENSORS:
        data = values(shape)
        if kind == Type.F16:
            data = data.astype(np.float16)
        elif kind != Type.F32:
            data = gguf.quants.quantize(data, kind)
        out.add_tensor(name, data, raw_dtype=None if kind in (Type.F32, Type.F16) else kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    main()
