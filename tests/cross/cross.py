"""What tests/cross.sh runs: writes every format by this program, loads it with the engine it is for,
and prints what came of it.

    python cross.py --moesmith PROGRAM --work DIR MODELS...

A model is a folder of the layout of tests/golden/models: model/, adapter/, batch.jsonl. Exit status:
1 where a line of the table fails.
"""
import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

import engine_peft

HERE = Path(__file__).parent
PEFT_BOUND = 1e-4  # largest difference of logits, float32
LLAMA_BOUND = 3e-3  # rms: llama.cpp's GELU is a table in half precision
NEW_TOKENS = 8


class Table:
    def __init__(self):
        self.failed = 0
        print(f"{'model':14} {'what was written':34} {'read by':13} {'result':44} ")

    def row(self, model, what, engine, result, good):
        word = {True: "ok", False: "WRONG", None: "-"}[good]
        self.failed += good is False
        print(f"{model:14} {what:34} {engine:13} {result:44} {word}", flush=True)


class Refused(Exception):
    """The program's own sentence."""


class Cross:
    def __init__(self, program, work, folder, table):
        self.program, self.table = program, table
        self.name, self.model = folder.name, folder / "model"
        self.work = work / folder.name
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.batch = folder / "batch.jsonl"
        self.rows = [json.loads(line)["input_ids"] for line in self.batch.read_text().splitlines()]
        self.prompts = [r[:max(2, len(r) // 2)] for r in self.rows[:3]]
        config = json.loads((self.model / "config.json").read_text())
        ends = config.get("eos_token_id", config.get("text_config", {}).get("eos_token_id"))
        self.ends = ends if isinstance(ends, list) else [ends]

    def row(self, what, engine, result, good):
        self.table.row(self.name, what, engine, result, good)

    # ---- this program ----

    def run(self, verb, **keys):
        flags = [x for k, v in keys.items() for x in ("--" + k, str(v))]
        done = subprocess.run([self.program, verb, "--base_model", self.model, "--overwrite", "true",
                               *flags], capture_output=True, text=True)
        if done.returncode:
            raise Refused(done.stderr.strip().splitlines()[-1].removeprefix("moesmith: "))

    def export(self, kind, adapter=None, name=None, **more):
        """The path written."""
        out = self.work / (name or kind)
        if adapter:
            more["lora_model_dir"] = adapter
        self.run("export", format=kind, output=out, **more)
        return out

    def train(self, name, **keys):
        out = self.work / name
        self.run("train", datasets=self.batch, **{"datasets.0.type": "tokens"}, output_dir=out,
                 compute="f32", max_steps=4, lora_r=3, lora_alpha=5, learning_rate=0.02, **keys)
        return out

    def logits(self, adapter=None):
        out = self.work / "logits.h5"
        more = {"lora_model_dir": adapter} if adapter else {}
        self.run("logits", datasets=self.batch, **{"datasets.0.type": "tokens"}, compute="f32",
                 output=out, **more)
        with h5py.File(out) as f:
            return f["logits"][:]

    def greedy(self, adapter=None):
        asked, out = self.work / "prompts.jsonl", self.work / "answers.jsonl"
        asked.write_text("".join(json.dumps({"input_ids": p}) + "\n" for p in self.prompts))
        more = {"lora_model_dir": adapter} if adapter else {}
        self.run("generate", prompts=asked, output=out, temperature=0, max_new_tokens=NEW_TOKENS,
                 compute="f32", **more)
        return [json.loads(line)["ids"] for line in out.read_text().splitlines()]

    # ---- llama.cpp ----

    def llama(self, model, lora=None, texts=(), run=True):
        """What it answers; a string: why it does not."""
        spec, out = self.work / "spec.json", self.work / "llama.npz"
        out.unlink(missing_ok=True)
        spec.write_text(json.dumps(dict(
            model=str(model), lora=str(lora) if lora else None, texts=list(texts),
            rows=self.rows if run else [], prompts=self.prompts if run else [],
            new_tokens=NEW_TOKENS, ends=self.ends)))
        done = subprocess.run([sys.executable, HERE / "engine_llama.py", spec, out],
                              capture_output=True, text=True)
        if done.returncode or not out.exists():
            lines = done.stderr.strip().splitlines()
            return lines[-1][:100] if lines else f"ended with status {done.returncode}"
        return np.load(out)

    # ---- lines of the table ----

    def peft_line(self, what, checkpoint, adapter, ours, text):
        m = engine_peft.load(checkpoint, adapter)
        far = float(np.abs(engine_peft.logits(m, self.rows) - ours).max())
        same = [a[:len(b)] for a, b in zip(engine_peft.greedy(m, self.prompts, NEW_TOKENS, self.ends),
                                           text)] == text
        engine = "PEFT" if adapter else "Transformers"
        self.row(what, engine, f"logits to {far:.1e}, text {'the same' if same else 'another'}",
                 far <= PEFT_BOUND and same)

    def llama_line(self, what, model, lora, ours, text, bound=LLAMA_BOUND):
        got = self.llama(model, lora)
        if isinstance(got, str):
            self.row(what, "llama.cpp", got, False)
            return
        rms = float(np.sqrt(np.mean((got["logits"] - ours) ** 2)))
        same = [a[:len(b)] for a, b in zip(json.loads(str(got["greedy"])), text)] == text
        good = rms <= bound and same if bound else None
        self.row(what, "llama.cpp", f"logits rms {rms:.1e}, text {'the same' if same else 'another'}",
                 good)

    def refusal_line(self, what, engine, sentence, names):
        """A format that cannot carry something says so, and names one that can."""
        self.row(what, engine, "refused: " + sentence[:200], names in sentence)

    def adapter_lines(self, label, adapter, base):
        ours, text = self.logits(adapter), self.greedy(adapter)
        self.peft_line(f"{label}: peft", self.model, self.export("peft", adapter), ours, text)
        merged = self.export("merged", adapter)
        self.peft_line(f"{label}: merged", merged, None, ours, text)
        if not base:
            return
        whole = self.export("gguf", adapter, "merged.gguf", gguf_type="f32")
        self.llama_line(f"{label}: gguf f32", whole, None, ours, text)
        try:
            lora = self.export("gguf-lora", adapter, "lora.gguf", base_gguf=base)
            self.llama_line(f"{label}: gguf-lora beside base", base, lora, ours, text)
        except Refused as e:
            self.refusal_line(f"{label}: gguf-lora", "llama.cpp", str(e), "--format gguf")

    def tokenizer_line(self, path, cases):
        if not (self.model / "tokenizer.json").exists():
            return
        got = self.llama(path, texts=[c["text"] for c in cases], run=False)
        if isinstance(got, str):
            self.row("tokenizer", "llama.cpp", got, False)
            return
        plain = json.loads(str(got["tokens_special"]))
        right = sum(a == c["ids_special"] for a, c in zip(plain, cases))
        wrong = next((c["text"] for a, c in zip(plain, cases) if a != c["ids_special"]), "")
        self.row("tokenizer", "llama.cpp", f"{right} of {len(cases)} texts {wrong[:30]!r}",
                 right == len(cases))
        template = self.model / "chat_template.jinja"
        if template.exists():
            same = str(got["chat_template"]) == template.read_text()
            self.row("chat template", "llama.cpp", "the same" if same else "another", same)

    def all_lines(self, cases):
        experts = "num_experts" in (self.model / "config.json").read_text() and \
            json.loads((self.model / "config.json").read_text()).get("enable_moe_block")
        try:
            base = self.export("gguf", None, "base.gguf", gguf_type="f32")
        except Refused as e:
            base = None
            self.refusal_line("gguf", "llama.cpp", str(e), "--format merged")
        if base:
            ours, text = self.logits(), self.greedy()
            self.llama_line("base: gguf f32", base, None, ours, text)
            for kind in ("bf16", "q8_0", "q4_0", "mxfp4"):
                small = self.export("gguf", None, f"{kind}.gguf", gguf_type=kind)
                self.llama_line(f"base: gguf {kind}", small, None, ours, text, bound=None)
            self.tokenizer_line(base, cases)
        self.adapter_lines("adapter", self.batch.parent / "adapter", base)
        if not experts:
            return
        for train in ("lora", "full", "full,scale", "scale,per_expert_scale"):
            adapter = self.train("router-" + train, **{"router.train": train})
            self.adapter_lines(f"router {train}", adapter, base)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--moesmith", required=True)
    args.add_argument("--work", type=Path, required=True)
    args.add_argument("--cases", type=Path, nargs="*", default=[])
    args.add_argument("models", type=Path, nargs="+")
    args = args.parse_args()
    table = Table()
    for folder in args.models:
        cases = []
        for path in args.cases:
            tokenizer = folder / "model" / "tokenizer.json"
            if tokenizer.exists() and (path / "tokenizer.json").read_text() == tokenizer.read_text():
                cases = [json.loads(x) for x in (path / "cases.jsonl").read_text().splitlines()]
        Cross(args.moesmith, args.work, folder, table).all_lines(cases)
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
