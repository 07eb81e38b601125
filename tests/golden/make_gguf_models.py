#!/usr/bin/env python3
"""Makes the folders tests/golden/models/gguf-*: tiny models in GGUF files, and what Transformers and
PEFT answer to the weights that those stand for.

    python tests/golden/make_gguf_models.py tests/golden/models [NAME ...]

As make_models.py beside it, which makes all but the files; needs gguf (llama.cpp's package) too.
Names come from its tensor map, keys are those that llama.cpp's conversion writes (conversion/gemma.py),
blocks are encoded and opened by it: formats that it can only open are filled with any bytes under a
fitting scale.
"""
import argparse
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from gguf.quants import dequantize, quantize

import make_models as mm
from make_models import ATTENTION, COMMON, DENSE, EXPERTS, FULL, GEMMA, SLIDING

TYPE = gguf.GGMLQuantizationType
ONLY_OPENED = {  # offset of the float16 scales, and how many times them a value is, about
    TYPE.Q4_K: ([0, 2], 32 * 8), TYPE.Q5_K: ([0, 2], 32 * 16), TYPE.Q6_K: ([208], 70 * 18)}

MODELS = {
    "gguf-moe": dict(
        seed=27, flat_keys=True, lengths=[13, 7, 16, 5, 11, 9], rank=2, alpha=3,
        modules=ATTENTION + ["router.proj"], parameters=EXPERTS, split_experts=[1],
        types={"token_embd": "Q8_0", "attn_q": "Q4_0", "attn_k": "Q5_0", "attn_v": "Q5_1",
               "attn_output": "Q4_1", "ffn_gate": "Q8_0", "ffn_up": "MXFP4", "blk.0.ffn_down": "Q4_K",
               "blk.1.ffn_down": "Q5_K", "blk.2.ffn_down": "Q6_K", "ffn_gate_up_exps": "Q4_0",
               "ffn_down_exps": "Q8_0"},
        config=dict(
            COMMON, vocab_size=64, vocab_size_per_layer_input=64, hidden_size=64,
            intermediate_size=256, num_hidden_layers=3, layer_types=[SLIDING, SLIDING, FULL],
            num_attention_heads=2, num_key_value_heads=2, num_global_key_value_heads=1, head_dim=16,
            global_head_dim=32, attention_k_eq_v=True, sliding_window=6, enable_moe_block=True,
            num_experts=4, top_k_experts=2, moe_intermediate_size=32)),
    "gguf-ple": dict(
        seed=217, flat_keys=False, lengths=[14, 8, 11, 5, 10], rank=2, alpha=4,
        modules=["q_proj", "o_proj"] + DENSE, parameters=[],
        types={"": "BF16", "ffn_gate": "F16", "token_embd": "F32"},
        config=mm.MODELS["ple"]["config"]),
    "gguf-gemma3": dict(
        seed=318, family="gemma3_text", flat_keys=True, lengths=[15, 9, 12], rank=3, alpha=4,
        modules=ATTENTION + DENSE, parameters=[],
        types={"": "F16", "attn_output": "Q8_0", "output": "BF16"},
        config=dict(
            GEMMA, vocab_size=88, hidden_size=20, intermediate_size=26, num_hidden_layers=4,
            sliding_window_pattern=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
            query_pre_attn_scalar=8, sliding_window=5, rope_theta=50000.0, rope_local_base_freq=10000.0,
            rope_scaling={"rope_type": "linear", "factor": 4.0}) | {"tie_word_embeddings": False}),
}


# ---- names and types ----

def gguf_names(spec, state):
    """{name in Transformers: name in GGUF}"""
    gemma3 = spec.get("family") == "gemma3_text"
    arch = gguf.MODEL_ARCH.GEMMA3 if gemma3 else gguf.MODEL_ARCH.GEMMA4
    table = gguf.get_tensor_name_map(arch, spec["config"]["num_hidden_layers"])
    names = {}
    for name in state:
        layer = name.split(".")[2] if name.startswith("model.layers.") else None
        if name.endswith("router.scale"):  # conversion/gemma.py names these two itself
            names[name] = f"blk.{layer}.ffn_gate_inp.scale"
        elif name.endswith("per_expert_scale"):
            names[name] = f"blk.{layer}.ffn_down_exps.scale"
        else:
            plain = name.removesuffix(".weight")
            found = table.get_name(plain)
            assert found, name
            names[name] = found + ".weight"
    return names


def type_of(spec, name, shape):
    """1-D tensors and routers are float32, as llama.cpp keeps them."""
    if len(shape) < 2 or "ffn_gate_inp" in name:
        return TYPE.F32
    types, inner = spec["types"], name.removesuffix(".weight").split(".")[-1]
    word = types.get(name.removesuffix(".weight")) or types.get(inner) or types.get("")
    return TYPE[word]


def as_stored(t, kind, gen):
    """The bytes (rows of uint8, or numbers), and the values that they stand for."""
    x = t.numpy().astype(np.float32)
    if kind == TYPE.F32:
        return x, x
    if kind in ONLY_OPENED:
        values, size = gguf.GGML_QUANT_SIZES[kind]
        places, times = ONLY_OPENED[kind]
        raw = np.random.default_rng(gen).integers(
            0, 256, (*x.shape[:-1], x.shape[-1] // values, size), dtype=np.uint8)
        scale = np.float16(x.std() / times).view(np.uint16)
        for at in places:
            raw[..., at], raw[..., at + 1] = scale & 255, scale >> 8
        raw = raw.reshape(*x.shape[:-1], -1)
    else:
        raw = quantize(x, kind)
    return raw, dequantize(raw, kind).astype(np.float32)


# ---- the file ----

def keys(w, spec, config):
    c, text = spec["config"], config
    w.add_type("model")
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_sliding_window(c["sliding_window"])
    w.add_key_length(c["head_dim"])
    w.add_value_length(c["head_dim"])
    w.add_bos_token_id(2)
    w.add_eos_token_id(1)
    w.add_pad_token_id(0)
    if c.get("final_logit_softcapping"):
        w.add_final_logit_softcapping(c["final_logit_softcapping"])
    (gemma3_keys if spec.get("family") == "gemma3_text" else gemma4_keys)(w, c, text)


PIECES = ["<pad>", "<eos>", "<bos>", "<unk>", "<turn>", "<end_of_turn>"]
TEMPLATE = ("{{ bos_token }}{% for m in messages %}<turn>{{ m['content'] }}<end_of_turn>{% endfor %}"
            "{% if add_generation_prompt %}<turn>{% endif %}")


def tokenizer(w, n):
    """Letters, and some pairs of them: enough for a text to become ids and ids a text."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + ["\u2581", ".", ",", "'", "\n"]
    pairs = [a + b for a, b in zip("thereanonsthinesateritouorhandesng" * 3, "hereandonsthinesateritouorhandesngx" * 3)]
    pieces = list(dict.fromkeys(PIECES + letters + pairs))[:n]
    pieces += [f"[PAD{i}]" for i in range(len(pieces), n)]
    w.add_tokenizer_model("llama")
    w.add_token_list(pieces)
    w.add_token_scores([-float(i) for i in range(n)])
    w.add_token_types([2 if p == "<unk>" else 3 if p in PIECES else 5 if p[1:4] == "PAD" else 1
                       for p in pieces])
    w.add_unk_token_id(3)
    w.add_add_space_prefix(False)
    w.add_chat_template(TEMPLATE)


def gemma3_keys(w, c, config):
    tokenizer(w, c["vocab_size"])
    w.add_rope_freq_base(c["rope_theta"])
    w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    w.add_rope_scaling_factor(c["rope_scaling"]["factor"])
    w.add_uint32("gemma3.attention.sliding_window_pattern", c["sliding_window_pattern"])


def gemma4_keys(w, c, config):
    swa = [t == SLIDING for t in c["layer_types"]]
    shared, layers = c["num_kv_shared_layers"], c["num_hidden_layers"]
    for key in ("gemma4.attention.key_length", "gemma4.attention.value_length"):
        w.kv_data[0].pop(key)
        w.add_uint32(key, c["global_head_dim"])
        w.add_uint32(key + "_swa", c["head_dim"])
    w.add_rope_freq_base(1e6)
    w.add_float32("gemma4.rope.freq_base_swa", 1e4)
    w.add_uint32("gemma4.attention.shared_kv_layers", shared)
    w.add_uint32("gemma4.embedding_length_per_layer_input", c["hidden_size_per_layer_input"])
    w.add_array("gemma4.attention.sliding_window_pattern", swa)
    if c["use_double_wide_mlp"]:
        w.kv_data[0].pop("gemma4.feed_forward_length")
        w.add_feed_forward_length(
            [c["intermediate_size"] * (2 if i >= layers - shared else 1) for i in range(layers)])
    if c["num_global_key_value_heads"] is not None:
        w.kv_data[0].pop("gemma4.attention.head_count_kv")
        w.add_head_count_kv(
            [c["num_key_value_heads" if s else "num_global_key_value_heads"] for s in swa])
    if c["enable_moe_block"]:
        w.add_expert_count(c["num_experts"])
        w.add_expert_used_count(c["top_k_experts"])
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    half = c["global_head_dim"] // 2
    turning = int(c["global_head_dim"] * 0.25 / 2)
    w.add_tensor("rope_freqs.weight", np.array(
        [1.0] * turning + [1e30] * (half - turning), np.float32))


def split_experts(raw):
    half = raw.shape[1] // 2
    return {"ffn_gate_exps": raw[:, :half], "ffn_up_exps": raw[:, half:]}


class Files:
    """What make_models.py calls in the place of its own: weights rounded to what their formats hold,
    and a file of them instead of a checkpoint directory."""

    def __init__(self, spec):
        self.spec, self.raw = spec, {}

    def randomise(self, model, gen):
        self.plain(model, gen)
        state = {n: t for n, t in mm.learned_tensors(model)}
        self.names = gguf_names(self.spec, state)
        for i, (name, t) in enumerate(state.items()):
            kind = type_of(self.spec, self.names[name], t.shape)
            raw, values = as_stored(t.data, kind, self.spec["seed"] * 1000 + i)
            t.data.copy_(torch.from_numpy(values))
            norm = self.spec.get("family") == "gemma3_text" and name.endswith("norm.weight")
            self.raw[name] = (raw + 1 if norm else raw, kind)
            if norm:  # what is left when 1 is subtracted again
                t.data.copy_(torch.from_numpy(raw + 1 - 1))

    def write(self, model, spec, folder):
        arch = "gemma3" if spec.get("family") == "gemma3_text" else "gemma4"
        w = gguf.GGUFWriter(str(folder) + ".gguf", arch)
        keys(w, spec, model.config)
        for name, (raw, kind) in self.raw.items():
            short = self.names[name]
            parts = {short: raw}
            if "ffn_gate_up_exps" in short and int(short.split(".")[1]) in spec["split_experts"]:
                parts = {short.replace("ffn_gate_up_exps", k): v for k, v in split_experts(raw).items()}
            for part, data in parts.items():
                data = np.ascontiguousarray(data)
                w.add_tensor(part, data, raw_dtype=None if kind in (TYPE.F32, TYPE.F16) else kind)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()


def make(name, spec, out):
    files = Files(spec)
    Files.plain = staticmethod(plain_randomise)
    mm.randomise, mm.write_model = files.randomise, files.write
    mm.yaml_text = lambda k: plain_yaml(k).replace("../model\n", "../model.gguf\n")
    mm.make_model(name, spec, out)
    for unwanted in ("merged", "merged.safetensors", "grads_full.safetensors", "train_router_full",
                     "train_router_lora"):
        path = out / name / unwanted
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


plain_randomise, plain_yaml = mm.randomise, mm.yaml_text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", default=[])
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for name in args.names or MODELS:
        make(name, MODELS[name], args.out)


if __name__ == "__main__":
    sys.exit(main())
