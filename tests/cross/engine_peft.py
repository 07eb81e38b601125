"""Transformers and PEFT: the logits and greedy text of a checkpoint, with or without an adapter."""
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import PeftModel

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import make_models as golden  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def load(model, adapter=None, vision=True):
    """In float32, the plain way: eager attention, eager experts. vision: False opens a multimodal
    checkpoint without its vision tower."""
    config = transformers.AutoConfig.from_pretrained(model)
    if not vision:
        config.vision_config = None
    config._attn_implementation = config._experts_implementation = "eager"
    m = transformers.AutoModelForCausalLM.from_pretrained(
        model, config=config, dtype=torch.float32, attn_implementation="eager")
    return (PeftModel.from_pretrained(m, adapter) if adapter else m).eval()


@torch.no_grad()
def logits(m, rows):
    out = [m(input_ids=torch.tensor([r]), use_cache=False).logits[0] for r in rows]
    return torch.cat(out).numpy()


def exact_logits(m, rows):
    """In float64, norms, routers and softmax included; m is no more of use."""
    with golden.everything_in_float64():
        return logits(m.double(), rows)


def greedy(m, prompts, n, ends):
    out = []
    for ids in prompts:
        new = []
        while len(new) < n and (best := int(np.argmax(logits(m, [ids + new])[-1]))) not in ends:
            new.append(best)
        out.append(new)
    return out


def half_gelu(x):
    """ggml's: a table over half-precision inputs of half-precision values."""
    half = x.half().float()
    y = torch.nn.functional.gelu(half, approximate="tanh").half().float()
    return torch.where(x <= -10, torch.zeros_like(x), torch.where(x >= 10, x, y))


def use_half_gelu(m):
    for part in m.modules():
        if "gelu" in type(part).__name__.lower():
            part.forward = half_gelu
    return m


def use_bfloat16_factor(m):
    """Of the embeddings, as mlx-lm's gemma3 has it."""
    for part in m.modules():
        if hasattr(part, "embed_scale"):
            part.embed_scale = part.embed_scale.bfloat16().float()
    return m
