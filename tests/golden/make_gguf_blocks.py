#!/usr/bin/env python3
"""Makes tests/golden/quant/gguf.safetensors: blocks of GGUF's formats and what they decode to.

    python tests/golden/make_gguf_blocks.py tests/golden/quant/gguf.safetensors

Needs numpy, safetensors and gguf (llama.cpp's package, whose values and bytes these are)."""
import sys

import numpy as np
import gguf
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

TYPES = gguf.GGMLQuantizationType
ENCODED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")
# Decoded only: any bytes, with float16 scales that are numbers.
SCALES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q4_1": (0, 2), "Q5_0": (0,)}


def source(rng):
    """Rows of 256: normal, of many sizes, with zeros, ties and outliers."""
    x = rng.standard_normal((8, 256)).astype(np.float32) * 0.05
    x[1] *= np.exp2(rng.integers(-30, 12, 256)).astype(np.float32)
    x[2, :64] = 0
    x[3] = np.round(x[3] * 200) / 2  # ties between neighbours
    x[3, ::32] = 127
    x[4, ::48] *= 100
    x[5] = -np.abs(x[5])
    x[6, 5], x[6, 9] = 0.2, -0.2  # the first of two largest magnitudes decides
    return x.astype(np.float32)


def main(path):
    rng = np.random.default_rng(7)
    x = source(rng)
    out = {"source": x}
    for name in ENCODED:
        kind = getattr(TYPES, name)
        blocks = np.ascontiguousarray(quantize(x, kind)).view(np.uint8)
        out[name + ".blocks"] = blocks
        out[name + ".values"] = dequantize(blocks, kind).astype(np.float32)
    for name, places in SCALES.items():
        kind = getattr(TYPES, name)
        values, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (4, 256 // values, size), dtype=np.uint8)
        for at in places:
            scale = rng.uniform(-0.01, 0.01, blocks.shape[:2]).astype(np.float16)
            blocks[..., at : at + 2] = scale.view(np.uint8).reshape(*blocks.shape[:2], 2)
        blocks = blocks.reshape(4, -1)
        out[name + ".any.blocks"] = blocks
        out[name + ".any.values"] = dequantize(blocks, kind).astype(np.float32)
    scales = np.arange(256, dtype=np.uint8)[:, None]  # MXFP4: every scale, every code
    codes = np.arange(16, dtype=np.uint8)[None, :] * np.uint8(17)
    blocks = np.concatenate([scales, np.repeat(codes, 256, 0)], 1).reshape(16, -1)
    out["MXFP4.any.blocks"] = blocks
    out["MXFP4.any.values"] = dequantize(blocks, TYPES.MXFP4).astype(np.float32)
    save_file(out, path)


if __name__ == "__main__":
    main(sys.argv[1])
