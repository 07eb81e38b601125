#!/usr/bin/env python3
"""Makes tests/golden/models: tiny Gemma 3 and 4 models and what Transformers and PEFT answer to them.

    python tests/golden/make_models.py OUT [NAME ...]

README.md beside this file tells the layout. Nothing runs this: it is how the data was made, and how
to make more. All is computed in float32 on a CPU, with eager attention and eager experts, from
weights that bfloat16 can hold. A model is written only if the answers are well-conditioned: no
routing or greedy choice hangs on a logit difference below MARGIN, and float64 gives the same logits,
losses and gradient norms to ROUNDING.
"""
import argparse
import contextlib
import copy
import json
import math
import shutil
import sys
from pathlib import Path

import peft
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

SLIDING, FULL = "sliding_attention", "full_attention"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
DENSE = ["gate_proj", "up_proj", "down_proj"]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
MARGIN = 1e-3
ROUNDING = 2e-5
STEPS = 6
NEW_TOKENS = 10

GEMMA = dict(
    rms_norm_eps=1e-6, hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True,
    pad_token_id=0, eos_token_id=1, bos_token_id=2, max_position_embeddings=512,
    attention_bias=False)
COMMON = dict(
    GEMMA, hidden_size_per_layer_input=0, num_kv_shared_layers=0, use_double_wide_mlp=False,
    final_logit_softcapping=20.0)

# Newer keys, and how published checkpoints spell what they say.
FLAT_KEYS = {"per_layer_config": ["global_head_dim", "num_global_key_value_heads"],
             "layer_types": ["sliding_window_pattern"],
             "rope_parameters": ["rope_theta", "rope_local_base_freq", "rope_scaling"]}

# Odd and small sizes on purpose: nothing is a multiple of a vector or a tile.
MODELS = {
    "moe": dict(
        seed=17, flat_keys=True, lengths=[13, 7, 16, 5, 11, 9], rank=3, alpha=5,
        modules=ATTENTION + DENSE + ["router.proj"], parameters=EXPERTS,
        config=dict(
            COMMON, vocab_size=96, vocab_size_per_layer_input=96, hidden_size=20,
            intermediate_size=22, num_hidden_layers=4, layer_types=[SLIDING, FULL, SLIDING, FULL],
            num_attention_heads=4, num_key_value_heads=2, num_global_key_value_heads=1, head_dim=6,
            global_head_dim=16, attention_k_eq_v=True, sliding_window=6, enable_moe_block=True,
            num_experts=6, top_k_experts=2, moe_intermediate_size=7)),
    "dense": dict(
        seed=111, flat_keys=False, lengths=[12, 6, 15, 9, 4], rank=2, alpha=3,
        modules=ATTENTION + DENSE, parameters=[],
        config=dict(
            COMMON, vocab_size=80, vocab_size_per_layer_input=80, hidden_size=18,
            intermediate_size=26, num_hidden_layers=3, layer_types=[SLIDING, SLIDING, FULL],
            num_attention_heads=3, num_key_value_heads=3, num_global_key_value_heads=1, head_dim=10,
            global_head_dim=24, attention_k_eq_v=True, sliding_window=5, enable_moe_block=False)),
    "ple": dict(
        seed=217, flat_keys=False, lengths=[14, 8, 11, 5, 10], rank=2, alpha=4,
        modules=["q_proj", "o_proj"] + DENSE, parameters=[],
        config=dict(
            COMMON, vocab_size=72, vocab_size_per_layer_input=72, hidden_size=16,
            intermediate_size=14, num_hidden_layers=5,
            layer_types=[SLIDING, FULL, SLIDING, SLIDING, FULL], num_attention_heads=2,
            num_key_value_heads=1, num_global_key_value_heads=None, head_dim=8, global_head_dim=16,
            attention_k_eq_v=False, sliding_window=4, hidden_size_per_layer_input=4,
            num_kv_shared_layers=2, use_double_wide_mlp=True, enable_moe_block=False)),
    "gemma3": dict(
        seed=318, family="gemma3_text", flat_keys=True, lengths=[15, 9, 12, 6, 8], rank=3, alpha=4,
        modules=ATTENTION + DENSE, parameters=[],
        config=dict(
            GEMMA, vocab_size=88, hidden_size=20, intermediate_size=26, num_hidden_layers=5,
            sliding_window_pattern=3, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
            query_pre_attn_scalar=9, sliding_window=5, rope_theta=50000.0,
            rope_local_base_freq=700.0, rope_scaling={"rope_type": "linear", "factor": 4.0})),
    "gemma3-layer-types": dict(
        seed=320, family="gemma3_text", flat_keys=False, lengths=[11, 7, 14, 5], rank=2, alpha=2,
        modules=["q_proj", "v_proj", "down_proj"], parameters=[],
        config=dict(
            GEMMA, vocab_size=72, hidden_size=18, intermediate_size=14, num_hidden_layers=4,
            layer_types=[FULL, SLIDING, FULL, SLIDING], num_attention_heads=3, num_key_value_heads=1,
            head_dim=10, query_pre_attn_scalar=4, sliding_window=4, final_logit_softcapping=15.0,
            tie_word_embeddings=False)),
}

SCHEDULES = {
    "linear": transformers.get_linear_schedule_with_warmup,
    "cosine": transformers.get_cosine_schedule_with_warmup,
    "constant": lambda opt, warmup, total: transformers.get_constant_schedule_with_warmup(opt, warmup),
}


# ---- models ----

def build(spec):
    family = spec.get("family", "gemma4_text")
    conf = transformers.AutoConfig.for_model(family, **copy.deepcopy(spec["config"]))
    conf._attn_implementation = conf._experts_implementation = "eager"
    return transformers.AutoModelForCausalLM.from_config(
        conf, dtype=torch.float32, attn_implementation="eager").eval()


def learned_tensors(model):
    """Parameters, and the one buffer that a checkpoint stores."""
    yield from model.named_parameters()
    yield from ((n, b) for n, b in model.named_buffers() if n.endswith("layer_scalar"))


def randomise(model, gen):
    """Values under which every branch matters and none drowns the others."""
    around_one = model.config.model_type == "gemma3_text"  # its norms weigh by 1 + w
    for name, t in learned_tensors(model):
        normal = torch.randn(t.shape, generator=gen)
        uniform = torch.rand(t.shape, generator=gen)
        if name.endswith(("router.scale", "per_expert_scale", "layer_scalar")):
            value = 0.6 + 0.8 * uniform
        elif around_one and "norm" in name:
            value = 0.6 * uniform - 0.3
        elif "q_norm" in name or "k_norm" in name:  # stands for attention's missing 1/sqrt(d)
            value = (0.8 + 0.6 * uniform) * t.shape[-1] ** -0.25
        elif "norm" in name:
            value = 0.7 + 0.6 * uniform
        elif "embed" in name or "lm_head" in name:
            value = 0.35 * normal
        elif "router.proj" in name:
            value = 2.5 * normal
        else:
            value = 1.2 * normal / math.sqrt(t.shape[-1])
        t.data.copy_(value.to(torch.bfloat16).float())


def with_adapter(model, gen, modules, parameters, rank, alpha, zero_b=False, **more):
    pm = peft.get_peft_model(model, peft.LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=modules,
        target_parameters=parameters or None, **more)).eval()
    for name, p in pm.named_parameters():
        if "lora_A" in name:
            p.data.copy_(torch.randn(p.shape, generator=gen) / math.sqrt(p.shape[-1]))
        elif "lora_B" in name:
            p.data.copy_(torch.randn(p.shape, generator=gen) * (0 if zero_b else 0.12))
    return pm


# ---- answers ----

def make_rows(vocab, lengths, gen):
    """Half-repeating ids, so that attention finds something; three ways of supervising."""
    rows = []
    for i, n in enumerate(lengths):
        ids = [2] + torch.randint(3, vocab, (n - 1,), generator=gen).tolist()
        for j in range(4, n, 2):
            ids[j] = ids[j - 3]
        labels = {
            0: list(ids),
            1: [-100] * (n // 2) + ids[n // 2:],
            2: [x if j // 3 % 2 else -100 for j, x in enumerate(ids)],
        }[i % 3]
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def logits_of(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def all_logits(model, rows):
    with torch.no_grad():
        return torch.cat([logits_of(model, r["input_ids"]) for r in rows]).contiguous()


def loss_of(model, rows):
    """Mean over the supervised tokens of all rows, and their number."""
    total, n = 0.0, 0
    for r in rows:
        target = torch.tensor(r["labels"][1:])
        total = total + F.cross_entropy(
            logits_of(model, r["input_ids"])[:-1], target, ignore_index=-100, reduction="sum")
        n += int((target != -100).sum())
    return total / n, n


def greedy(model, rows):
    """Continuations by whole recomputation, and the closest call among their choices."""
    answers, margin = [], math.inf
    for r in rows[:3]:
        prompt, new = r["input_ids"][:6], []
        for _ in range(NEW_TOKENS):
            with torch.no_grad():
                top = logits_of(model, prompt + new)[-1].topk(2)
            new.append(int(top.indices[0]))
            margin = min(margin, float(top.values[0] - top.values[1]))
        answers.append({"input_ids": prompt, "ids": new})
    return answers, margin


def routes(model, rows):
    """layer.N.experts and .weights in descending order, and the closest call between experts."""
    seen, hooks, margin = {}, [], math.inf

    def record(layer):
        def hook(_, args, out):
            nonlocal margin
            probability, weight, chosen = out
            k = chosen.shape[-1]
            top = probability.reshape(-1, probability.shape[-1]).topk(k + 1).values.log()
            margin = min(margin, float((top[:, :-1] - top[:, 1:]).min()))
            seen.setdefault(layer, []).append((chosen.reshape(-1, k), weight.reshape(-1, k)))
        return hook

    for name, module in model.named_modules():
        if type(module).__name__ == "Gemma4TextRouter":
            layer = next(x for x in name.split(".") if x.isdigit())
            hooks.append(module.register_forward_hook(record(layer)))
    all_logits(model, rows)
    for h in hooks:
        h.remove()
    tensors = {}
    for layer, parts in seen.items():
        tensors[f"layer.{layer}.experts"] = torch.cat([c for c, _ in parts]).int().contiguous()
        tensors[f"layer.{layer}.weights"] = torch.cat([w for _, w in parts]).float().contiguous()
    return tensors, margin


def distance(a, b):
    d = (a.double() - b.double()).abs()
    return {"max": float(d.max()), "mean": float(d.mean()), "rms": float(d.pow(2).mean().sqrt())}


@contextlib.contextmanager
def everything_in_float64():
    """Transformers opens norms, routers and softmax to float32 by name; here that means float64."""
    as_float, softmax = torch.Tensor.float, F.softmax
    torch.Tensor.float = torch.Tensor.double
    F.softmax = lambda x, dim=None, dtype=None, **kw: softmax(x, dim=dim)
    try:
        yield
    finally:
        torch.Tensor.float, F.softmax = as_float, softmax


def demand(ok, what):
    if not ok:
        sys.exit(f"ill-conditioned: {what}; take another seed")


def answers(model, again, rows, what):
    """What a model (again: another like it) is asked: expect.json's part, and tensors."""
    logits = all_logits(model, rows)
    with torch.no_grad():
        loss, n = loss_of(model, rows)
    ids, greedy_margin = greedy(model, rows)
    routing, route_margin = routes(model, rows)
    with everything_in_float64():
        rounding = distance(logits, all_logits(again().double(), rows))
    demand(greedy_margin > MARGIN, f"{what}: greedy margin {greedy_margin:.1e}")
    demand(route_margin > MARGIN, f"{what}: routing margin {route_margin:.1e}")
    demand(rounding["max"] < ROUNDING, f"{what}: {rounding['max']:.1e} from float64")
    expect = {"loss": float(loss), "tokens": n, "greedy": ids, "from_float64": rounding}
    return expect, {"logits": logits, **routing}


def bfloat16_distance(spec, state, attention, logits, rows):
    model = build(spec)
    model.load_state_dict(state)
    model = model.to(torch.bfloat16).eval()
    model.set_attn_implementation(attention)
    return distance(all_logits(model, rows).float(), logits)


# ---- training ----

def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def save_adapter(pm, folder):
    pm.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "model"
    write_json(folder / "adapter_config.json", config)


def train(pm, rows, k):
    """Trains in place; the lines that metrics.jsonl must hold."""
    named = [(n, p) for n, p in pm.named_parameters() if p.requires_grad]
    late = [p for n, p in named if "lora_B" in n]
    early = [p for n, p in named if "lora_B" not in n]
    groups = [{"params": early},
              {"params": late, "lr": k["learning_rate"] * k.get("lora_plus_ratio", 1)}]
    if k["optimizer"] == "adamw":
        opt = torch.optim.AdamW(groups, lr=k["learning_rate"], weight_decay=k["weight_decay"],
                                betas=(k["adam_beta1"], k["adam_beta2"]), eps=k["adam_epsilon"])
    else:
        opt = torch.optim.SGD(groups, lr=k["learning_rate"], weight_decay=k["weight_decay"])
    schedule = SCHEDULES[k["lr_scheduler"]](opt, k["warmup_steps"], k["max_steps"])
    per_step, lines = k["micro_batch_size"] * k["gradient_accumulation_steps"], []
    for step in range(k["max_steps"]):
        part = [rows[(step * per_step + i) % len(rows)] for i in range(per_step)]
        loss, n = loss_of(pm, part)
        opt.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in named], k["max_grad_norm"] or math.inf)
        lines.append({"step": step + 1, "loss": loss.item(), "grad_norm": float(norm),
                      "learning_rate": opt.param_groups[0]["lr"], "supervised_tokens": n})
        opt.step()
        schedule.step()
    return lines


def yaml_text(k):
    lines = ["base_model: ../model", "lora_model_dir: adapter_init", "datasets:",
             "  - path: ../batch.jsonl", "    type: tokens", "shuffle: false", "compute: f32",
             "device: cpu", "output_dir: out", "logging_steps: 1"]
    return "\n".join(lines + [f"{key}: {value}" for key, value in k.items()]) + "\n"


def trace(make, rows, folder, **settings):
    """One training run; and how far rounding alone moves it, from the same run in float64."""
    k = dict(micro_batch_size=2, gradient_accumulation_steps=2, max_steps=STEPS, optimizer="adamw",
             learning_rate=0.01, lr_scheduler="linear", warmup_steps=2, weight_decay=0.01,
             max_grad_norm=1.0, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8)
    k.update(settings)
    pm = make()
    save_adapter(pm, folder / "adapter_init")
    lines = train(pm, rows, k)
    save_adapter(pm, folder / "adapter_final")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (folder / "train.yaml").write_text(yaml_text(k))
    with everything_in_float64():
        exact = train(make().double(), rows, k)
    worst = max(abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(lines, exact))
    norm = max(abs(a["grad_norm"] - b["grad_norm"]) / b["grad_norm"] for a, b in zip(lines, exact))
    demand(max(worst, norm) < ROUNDING, f"{folder.name}: loss {worst:.1e}, norm {norm:.1e}")
    return {"loss_relative_max": worst, "grad_norm_relative_max": norm,
            "first_loss": lines[0]["loss"], "last_loss": lines[-1]["loss"]}


# ---- one folder ----

def write_model(model, spec, folder):
    config = spec["config"]
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / "config.json"
    written = json.loads(path.read_text())
    for newer, flat in FLAT_KEYS.items() if spec["flat_keys"] else ():
        if flat[0] in config:
            written.pop(newer, None)
            written |= {key: config[key] for key in flat}
    write_json(path, written)


def gradients(model):
    plain = lambda n: n.replace(".default.", ".").replace(".modules_to_save.", ".")
    return {plain(n): p.grad.clone().contiguous() for n, p in model.named_parameters()
            if p.grad is not None}


def make_model(name, spec, out):
    gen = torch.Generator().manual_seed(spec["seed"])
    folder, config = out / name, spec["config"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = build(spec)
    randomise(model, gen)
    state = {k: t.clone() for k, t in model.state_dict().items()}
    rows = make_rows(config["vocab_size"], spec["lengths"], gen)
    (folder / "batch.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    write_model(model, spec, folder / "model")

    def fresh():
        m = build(spec)
        m.load_state_dict(state)
        return m.requires_grad_(False)

    expect = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__,
                           "peft": peft.__version__}}
    expect["base"], tensors = answers(model, fresh, rows, f"{name} base")
    save_file(tensors, folder / "base.safetensors")
    for attention in ("eager", "sdpa"):
        expect[f"reference_bf16_{attention}"] = bfloat16_distance(
            spec, state, attention, tensors["logits"], rows)
    loss_of(model, rows)[0].backward()
    save_file(gradients(model), folder / "grads_full.safetensors")

    adapter = dict(modules=spec["modules"], parameters=spec["parameters"], rank=spec["rank"],
                   alpha=spec["alpha"])
    again = lambda: with_adapter(fresh(), torch.Generator().manual_seed(spec["seed"] + 100), **adapter)
    pm = again()
    save_adapter(pm, folder / "adapter")
    expect["adapter"], tensors = answers(pm, again, rows, f"{name} adapter")
    save_file(tensors, folder / "adapter.safetensors")
    loss_of(pm, rows)[0].backward()
    save_file(gradients(pm), folder / "grads_adapter.safetensors")
    merged = pm.merge_and_unload()
    save_file({"logits": all_logits(merged, rows)}, folder / "merged.safetensors")
    merged.save_pretrained(folder / "merged")
    (folder / "merged" / "generation_config.json").unlink(missing_ok=True)

    runs = {"train_lora": (adapter, {})}
    if spec["parameters"]:
        runs["train_router_full"] = (
            dict(adapter, modules=["q_proj", "v_proj"], modules_to_save=["router"], use_rslora=True),
            dict(lr_scheduler="cosine", lora_plus_ratio=4.0, learning_rate=0.003, weight_decay=0.0))
        runs["train_router_lora"] = (
            dict(modules=["router.proj"], parameters=[], rank=2, alpha=2),
            dict(lr_scheduler="constant", warmup_steps=0, optimizer="sgd", learning_rate=0.5,
                 max_grad_norm=0.0, weight_decay=0.0))
    for i, (run, (what, how)) in enumerate(runs.items()):
        start = lambda: with_adapter(
            fresh(), torch.Generator().manual_seed(spec["seed"] + 200 + i), zero_b=True, **what)
        expect[run] = trace(start, rows, folder / run, **how)
    write_json(folder / "expect.json", expect)
    print(name, json.dumps({k: v for k, v in expect.items() if k.startswith(("train", "reference"))}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", default=[])
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for name in args.names or MODELS:
        make_model(name, MODELS[name], args.out)


if __name__ == "__main__":
    main()
