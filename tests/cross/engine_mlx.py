"""mlx-lm on a CPU: run as a process of its own, since it and torch each bring their threads.

    python engine_mlx.py SPEC.json OUT.npz

SPEC: model (a Hugging Face directory), adapter (a directory of mlx-lm's, or null), config (what it is
told beside config.json), rows, prompts, new_tokens, ends, as engine_llama.py's. OUT: logits, greedy
(JSON). Where it refuses, its reason is the last line of standard error.
"""
import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model


def load(spec):
    """`mlx_lm.load` is these two and a tokenizer, which not every model here has."""
    model, _ = load_model(Path(spec["model"]), model_config=spec["config"])
    model.set_dtype(mx.float32)
    if spec["adapter"]:
        model = load_adapters(model, spec["adapter"])
    model.eval()
    return model


def logits(model, ids):
    """(len(ids), vocab), the row alone."""
    return np.array(model(mx.array([ids]))[0])


def greedy(model, ids, n, ends):
    new = []
    while len(new) < n and (best := int(logits(model, ids + new)[-1].argmax())) not in ends:
        new.append(best)
    return new


def main():
    spec = json.load(open(sys.argv[1]))
    mx.set_default_device(mx.cpu)
    try:
        model = load(spec)
    except ValueError as e:  # of many lines, where many tensors are wrong
        raise SystemExit(" ".join(str(e).split())) from e
    np.savez(
        sys.argv[2],
        logits=np.concatenate([logits(model, r) for r in spec["rows"]]),
        greedy=json.dumps([greedy(model, p, spec["new_tokens"], spec["ends"])
                           for p in spec["prompts"]]))


if __name__ == "__main__":
    main()
