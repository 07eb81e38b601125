#!/usr/bin/env python3
"""Makes tests/golden/adapters: adapters in every form, and what the software of each form answers.

    python make_adapters.py model OUT          a tiny Gemma 4 with 2 x expert width == width
    python make_adapters.py peft OUT NAME      an adapter as the installed PEFT writes it, its logits
    python make_adapters.py per-expert OUT     OUT/peft cut into experts, by hand
    python make_adapters.py mlx OUT            an adapter for mlx-lm, its logits by mlx-lm
    python make_adapters.py gguf OUT           OUT/peft as llama.cpp loads it, by hand and gguf-py

`peft` was run twice: with PEFT 0.21.2 (NAME peft) and with 0.18.0 (NAME peft-old), whose fused experts
have inputs and outputs in each other's place. README.md beside this file tells what is there.
"""
import json
import math
import sys
from pathlib import Path

CONFIG = dict(
    rms_norm_eps=1e-6, hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True,
    pad_token_id=0, eos_token_id=1, bos_token_id=2, max_position_embeddings=512,
    attention_bias=False, hidden_size_per_layer_input=0, num_kv_shared_layers=0,
    use_double_wide_mlp=False, final_logit_softcapping=20.0, vocab_size=48,
    vocab_size_per_layer_input=48, hidden_size=12, intermediate_size=10, num_hidden_layers=2,
    layer_types=["sliding_attention", "full_attention"], num_attention_heads=2,
    num_key_value_heads=1, num_global_key_value_heads=1, head_dim=6, global_head_dim=8,
    attention_k_eq_v=True, sliding_window=6, enable_moe_block=True, num_experts=5, top_k_experts=2,
    moe_intermediate_size=6)
RANK, ALPHA = 3, 5
LENGTHS = [9, 12, 7]


def rows_of(out):
    return [json.loads(line)["input_ids"] for line in open(out / "batch.jsonl")]


def make_model(out):
    import torch
    import transformers
    gen = torch.Generator().manual_seed(5)
    conf = transformers.AutoConfig.for_model("gemma4_text", **CONFIG)
    model = transformers.AutoModelForCausalLM.from_config(conf, dtype=torch.float32).eval()
    named = list(model.named_parameters())
    named += [(n, b) for n, b in model.named_buffers() if n.endswith("layer_scalar")]
    for name, t in named:
        normal = torch.randn(t.shape, generator=gen)
        if "norm" in name or name.endswith(("scale", "layer_scalar")):
            value = 0.7 + 0.6 * torch.rand(t.shape, generator=gen)
        elif "embed" in name:
            value = 0.35 * normal
        else:
            value = (2.5 if "router.proj" in name else 1.2 / math.sqrt(t.shape[-1])) * normal
        t.data.copy_(value.to(torch.bfloat16).float())
    model.save_pretrained(out / "model")
    (out / "model/generation_config.json").unlink(missing_ok=True)
    written = json.load(open(out / "model/config.json"))
    written.pop("per_layer_config", None)  # as published checkpoints spell it, and mlx-lm reads it
    for key in ("global_head_dim", "num_global_key_value_heads"):
        written[key] = CONFIG[key]
    json.dump(written, open(out / "model/config.json", "w"), indent=1)
    with open(out / "batch.jsonl", "w") as f:
        for n in LENGTHS:
            ids = [2] + torch.randint(3, CONFIG["vocab_size"], (n - 1,), generator=gen).tolist()
            f.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")


def make_peft(out, name):
    import peft
    import torch
    import transformers
    from safetensors.torch import save_file
    gen = torch.Generator().manual_seed(6)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        out / "model", dtype=torch.float32, attn_implementation="eager",
        experts_implementation="eager").eval()
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, lora_dropout=0.0,
        target_modules=["q_proj", "o_proj", "up_proj", "router.proj"],
        target_parameters=["experts.gate_up_proj", "experts.down_proj"])
    model = peft.get_peft_model(model, config).eval()
    for key, p in model.named_parameters():
        if "lora_A" in key:
            p.data.copy_(torch.randn(p.shape, generator=gen) / math.sqrt(p.shape[-1]))
        elif "lora_B" in key:
            p.data.copy_(torch.randn(p.shape, generator=gen) * 0.15)
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
                  for ids in rows_of(out)]
    model.peft_config["default"].base_model_name_or_path = "model"
    model.save_pretrained(out / name)
    (out / name / "README.md").unlink(missing_ok=True)
    save_file({"logits": torch.cat(logits).contiguous()}, out / f"{name}.safetensors")
    print("PEFT", peft.__version__)


def make_per_expert(out):
    """Column j*E + e of a fused B belongs to expert e; gate is the first half of the outputs."""
    import numpy as np
    from safetensors.numpy import load_file, save_file
    E, R, I = CONFIG["num_experts"], RANK, CONFIG["moe_intermediate_size"]
    new = {}
    for name, t in load_file(out / "peft/adapter_model.safetensors").items():
        if ".experts." not in name:
            new[name] = t
            continue
        head, is_b = name.split("experts.")[0] + "experts", "lora_B" in name
        words = [("gate_proj", slice(0, I)), ("up_proj", slice(I, 2 * I))] \
            if "base_layer" in name else [("down_proj", slice(None))]
        for e in range(E):
            for word, part in words:
                own = t[part, e::E] if is_b else t[e * R:(e + 1) * R]
                end = "lora_B" if is_b else "lora_A"
                new[f"{head}.{e}.{word}.{end}.weight"] = np.ascontiguousarray(own)
    config = json.load(open(out / "peft/adapter_config.json"))
    config["target_parameters"] = None
    config["target_modules"] = ["q_proj", "o_proj", "up_proj", "router.proj", "gate_proj",
                                "down_proj"]
    (out / "per-expert").mkdir(exist_ok=True)
    save_file(new, out / "per-expert/adapter_model.safetensors")
    json.dump(config, open(out / "per-expert/adapter_config.json", "w"), indent=1)


def make_mlx(out):
    """Gate and up each with an A of their own, as MLX trains them; up of layer 0 alone as well."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
    from mlx_lm.utils import load_model
    mx.set_default_device(mx.cpu)
    mx.random.seed(8)
    lora = {"rank": 2, "scale": 1.75, "dropout": 0.0, "keys": [
        "self_attn.q_proj", "mlp.down_proj", "router.proj", "experts.switch_glu.gate_proj",
        "experts.switch_glu.up_proj", "model.layers.1.experts.switch_glu.down_proj"]}
    model = load_model(out / "model")[0]
    linear_to_lora_layers(model, -1, lora)
    weights = {}
    for name, t in tree_flatten(model.parameters()):
        if name.endswith(("lora_a", "lora_b")):
            weights[name] = 0.3 * mx.random.normal(t.shape)
    (out / "mlx").mkdir(exist_ok=True)
    mx.save_safetensors(str(out / "mlx/adapters.safetensors"), weights)
    config = {"model": "model", "fine_tune_type": "lora", "num_layers": -1, "lora_parameters": lora}
    json.dump(config, open(out / "mlx/adapter_config.json", "w"), indent=1)
    model = load_adapters(load_model(out / "model")[0], str(out / "mlx"))
    model.eval()
    logits = [model(mx.array([ids]))[0] for ids in rows_of(out)]
    mx.save_safetensors(str(out / "mlx.safetensors"), {"logits": mx.concatenate(logits)})


GGUF_NAMES = {"self_attn.q_proj": "attn_q", "self_attn.o_proj": "attn_output", "mlp.up_proj": "ffn_up",
              "router.proj": "ffn_gate_inp", "experts.base_layer": "ffn_gate_up_exps",
              "experts": "ffn_down_exps"}


def gguf_tensors(out):
    """(name, A, B); experts one after the other, down_proj's B times the scale of each expert."""
    import numpy as np
    from safetensors.numpy import load_file
    E = CONFIG["num_experts"]
    peft, model = load_file(out / "peft/adapter_model.safetensors"), load_file(out / "model/model.safetensors")
    for key, a in peft.items():
        if "lora_A" not in key:
            continue
        layer, module = key.split("layers.")[1].removesuffix(".lora_A.weight").split(".", 1)
        b = peft[key.replace("lora_A", "lora_B")]
        if module.startswith("experts"):
            a = a.reshape(E, RANK, -1)
            b = b.reshape(-1, RANK, E).transpose(2, 0, 1)
        if module == "experts":
            b = b * model[f"model.layers.{layer}.router.per_expert_scale"][:, None, None]
        yield f"blk.{layer}.{GGUF_NAMES[module]}.weight", a, np.ascontiguousarray(b, np.float32)


def write_gguf(path, tensors):
    import gguf
    w = gguf.GGUFWriter(path, "gemma4")
    w.add_type("adapter")
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", ALPHA)
    for name, a, b in tensors:
        w.add_tensor(name + ".lora_a", a)
        w.add_tensor(name + ".lora_b", b)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def apart(tensors):
    """Gate and up as two weights; up of one rank more, that does nothing: its scale is another."""
    import numpy as np
    for name, a, b in tensors:
        if "gate_up" not in name:
            yield name, a, b
            continue
        gate, up = np.split(b, 2, axis=1)
        grow = lambda x, axis: np.concatenate([x, np.zeros_like(x.take([0], axis))], axis)
        more = np.float32(RANK + 1) / np.float32(RANK)
        yield name.replace("gate_up", "gate"), a, np.ascontiguousarray(gate)
        yield name.replace("gate_up", "up"), grow(a, 1), grow(up * more, 2)


def make_gguf(out):
    (out / "gguf").mkdir(exist_ok=True)
    write_gguf(out / "gguf/lora.gguf", gguf_tensors(out))
    write_gguf(out / "gguf/apart.gguf", apart(gguf_tensors(out)))


if __name__ == "__main__":
    what, where, rest = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    {"model": make_model, "peft": make_peft, "per-expert": make_per_expert, "mlx": make_mlx,
     "gguf": make_gguf}[what](where, *rest)
