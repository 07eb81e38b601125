"""Models that tests/golden/models lacks, made the same way: shapes that llama.cpp can run, too."""
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import make_models as golden  # noqa: E402

SLIDING, FULL = golden.SLIDING, golden.FULL


def specs():
    """Per-layer embeddings with lent keys and values from the layers that llama.cpp takes them from,
    and a Gemma 3 whose scale is that of its head size."""
    ple = golden.MODELS["ple"]
    config = dict(ple["config"], layer_types=[FULL, SLIDING, FULL, SLIDING, FULL])
    yield "ple-lent", dict(ple, config=config)
    gemma3 = golden.MODELS["gemma3"]
    config = dict(gemma3["config"], query_pre_attn_scalar=gemma3["config"]["head_dim"])
    yield "gemma3-scale", dict(gemma3, config=config)


def make(out):
    """The folders, with model/, adapter/ and batch.jsonl."""
    for name, spec in specs():
        folder = out / name
        gen = torch.Generator().manual_seed(spec["seed"])
        model = golden.build(spec)
        golden.randomise(model, gen)
        rows = golden.make_rows(spec["config"]["vocab_size"], spec["lengths"], gen)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "batch.jsonl").write_text(
            "".join(golden.json.dumps(r) + "\n" for r in rows))
        golden.write_model(model, spec, folder / "model")
        adapter = golden.with_adapter(model, gen, spec["modules"], spec["parameters"], spec["rank"],
                                      spec["alpha"])
        golden.save_adapter(adapter, folder / "adapter")
        yield folder
