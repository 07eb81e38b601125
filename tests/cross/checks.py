"""The lines of the table: a model, what was written of it, who read it, and what came of it."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import h5py
import numpy as np

import engine_peft

HERE = Path(__file__).parent
PEFT_BOUND = 1e-4  # largest difference of logits, float32
LLAMA_BOUND = 3e-3  # rms: llama.cpp's GELU is a table in half precision
GELU_BOUND = 1e-3  # rms, against Transformers with that GELU, where it tips a router or the text
NEW_TOKENS = 8
QUANTISED = ("bf16", "q8_0", "q4_0", "mxfp4")
ROUTERS = ("lora", "full", "full,scale", "scale,per_expert_scale")


class Table:
    def __init__(self):
        self.failed = 0
        print(f"{'model':20} {'what was written':42} {'read by':13} result")

    def row(self, model, what, engine, result, good):
        word = {True: "ok", False: "WRONG", None: "-"}[good]
        self.failed += good is False
        print(f"{model:20} {what:42} {engine:13} {result:60} {word}", flush=True)


class Refused(Exception):
    """The program's own sentence."""


class Cross:
    def __init__(self, program, work, table, name, model, batch):
        """model: what base_model may be; batch: rows of type tokens."""
        self.program, self.table, self.name, self.model, self.batch = program, table, name, model, batch
        self.work = work / name
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.rows = [json.loads(line)["input_ids"] for line in self.batch.read_text().splitlines()]
        self.prompts = [r[:max(2, len(r) // 2)] for r in self.rows[:3]]
        self.is_stock, self.ends = False, [1]
        if model.is_dir():
            config = json.loads((model / "config.json").read_text())
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

    def stock(self):
        """Whether Transformers opens the checkpoint: not a multimodal one without its towers."""
        try:
            engine_peft.load(self.model)
            return True
        except RuntimeError as e:
            self.row("base", "Transformers", "does not open it: " + str(e).splitlines()[0][:60], None)
            return False

    def peft_line(self, what, checkpoint, adapter, ours, text):
        m = engine_peft.load(checkpoint, adapter)
        theirs = engine_peft.logits(m, self.rows)
        same = engine_peft.greedy(m, self.prompts, NEW_TOKENS, self.ends) == text
        far = float(np.abs(theirs - ours).max())
        result = f"logits to {far:.1e}, text {'the same' if same else 'another'}"
        if far > PEFT_BOUND:  # whose rounding is it? Both against float64
            exact = engine_peft.logits(m.double(), self.rows)
            far, own = (float(np.abs(exact - x).max()) for x in (ours, theirs))
            result += f" (from float64: {far:.1e}, it {own:.1e})"
        self.row(what, "PEFT" if adapter else "Transformers", result, far <= PEFT_BOUND and same)

    def llama_line(self, what, gguf, lora, ours, text, adapter=None, bound=LLAMA_BOUND):
        """adapter: the one that was merged into gguf, or that lora is."""
        got = self.llama(gguf, lora)
        if isinstance(got, str):
            self.row(what, "llama.cpp", got, False)
            return
        rms = lambda x: float(np.sqrt(np.mean((got["logits"] - x) ** 2)))
        far, new = rms(ours), json.loads(str(got["greedy"]))
        good, same = far <= bound, new == text
        result = f"logits rms {far:.1e}, text {'the same' if same else 'another'}"
        if not (good and same) and self.is_stock:
            like = engine_peft.use_half_gelu(engine_peft.load(self.model, adapter))
            far = rms(engine_peft.logits(like, self.rows))
            good = far <= GELU_BOUND
            same = new == engine_peft.greedy(like, self.prompts, NEW_TOKENS, self.ends)
            result += f" (of Transformers with its GELU: {far:.1e}, {'the same' if same else 'another'})"
        self.row(what, "llama.cpp", result, good and same)

    def quantised_line(self, what, gguf, ours):
        """That it loads and runs; what is lost is the format's affair (test_gguf_blocks)."""
        got = self.llama(gguf)
        if isinstance(got, str):
            self.row(what, "llama.cpp", got, False)
            return
        rms = float(np.sqrt(np.mean((got["logits"] - ours) ** 2)))
        self.row(what, "llama.cpp", f"runs; logits rms {rms:.1e} from float32", None)

    def refusal_line(self, what, engine, sentence, names):
        """A format that cannot carry something says so, and names one that can."""
        self.row(what, engine, "refused: " + sentence[:200], names in sentence)

    def adapter_lines(self, label, adapter, base):
        ours, text = self.logits(adapter), self.greedy(adapter)
        if self.is_stock:
            self.peft_line(f"{label}: peft", self.model, self.export("peft", adapter), ours, text)
            merged = self.export("merged", adapter)
            self.peft_line(f"{label}: merged", merged, None, ours, text)
        if not base:
            return
        whole = self.export("gguf", adapter, "merged.gguf", gguf_type="f32")
        self.llama_line(f"{label}: gguf f32", whole, None, ours, text, adapter)
        try:
            lora = self.export("gguf-lora", adapter, "lora.gguf", base_gguf=base)
            self.llama_line(f"{label}: gguf-lora beside base", base, lora, ours, text, adapter)
        except Refused as e:
            self.refusal_line(f"{label}: gguf-lora", "llama.cpp", str(e), "--format gguf")

    def split_line(self, adapter, base):
        """A base file with gate and up of the experts apart, as some converters make them."""
        apart = self.work / "apart.gguf"
        split_experts(base, apart)
        lora = self.export("gguf-lora", adapter, "lora.gguf", base_gguf=apart)
        self.llama_line("adapter: gguf-lora, gate and up apart", apart, lora, self.logits(adapter),
                        self.greedy(adapter), adapter)

    def base_lines(self):
        """The base's GGUF file; None: llama.cpp cannot run this model."""
        try:
            base = self.export("gguf", None, "base.gguf", gguf_type="f32")
        except Refused as e:
            self.refusal_line("gguf", "llama.cpp", str(e), "--format merged")
            return None
        ours = self.logits()
        self.llama_line("base: gguf f32", base, None, ours, self.greedy())
        for kind in QUANTISED:
            small = self.export("gguf", None, f"{kind}.gguf", gguf_type=kind)
            self.quantised_line(f"base: gguf {kind}", small, ours)
        template = self.model / "chat_template.jinja"
        if template.exists():
            same = str(self.llama(base, run=False)["chat_template"]) == template.read_text()
            self.row("base: chat template", "llama.cpp", "the same" if same else "another", same)
        return base

    def all_lines(self):
        self.is_stock = self.stock()
        base = self.base_lines()
        self.adapter_lines("adapter", self.batch.parent / "adapter", base)
        config = json.loads((self.model / "config.json").read_text())
        if not config.get("text_config", config).get("enable_moe_block"):
            return
        self.split_line(self.batch.parent / "adapter", base)
        for train in ROUTERS:
            adapter = self.train("router-" + train, **{"router.train": train})
            self.adapter_lines(f"router {train}", adapter, base)


def split_experts(path, to):
    """A GGUF file again, each ffn_gate_up_exps in two."""
    reader = gguf.GGUFReader(path)
    out = gguf.GGUFWriter(to, "gemma4")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            out.add_key_value(field.name, field.contents(), *field.types[:2])
    for t in reader.tensors:
        if "ffn_gate_up_exps" not in t.name:
            out.add_tensor(t.name, t.data)
            continue
        for name, part in zip(("ffn_gate_exps", "ffn_up_exps"), np.split(t.data, 2, axis=1)):
            out.add_tensor(t.name.replace("ffn_gate_up_exps", name), np.ascontiguousarray(part))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def tokenizer_lines(table, program, work, like, tokenizer, cases):
    """A vocabulary in a model of its own: the tokens of every case."""
    name = tokenizer.parent.name if tokenizer.name == "tokenizer.json" else tokenizer.stem
    folder, given = work / ("tokenizer-" + name), json.loads(tokenizer.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "shape").mkdir(parents=True)
    vocab = given["model"]["vocab"] | {t["content"]: t["id"] for t in given["added_tokens"]}
    config = json.loads((like / "model" / "config.json").read_text())
    config |= {"vocab_size": max(vocab.values()) + 1}
    config |= {"vocab_size_per_layer_input": config["vocab_size"]}
    (folder / "shape" / "config.json").write_text(json.dumps(config))
    shutil.copy(tokenizer, folder / "shape" / "tokenizer.json")
    shutil.copy(like / "batch.jsonl", folder)
    subprocess.run([program, "init", "--base_model", folder / "shape", "--output", folder / "model"],
                   check=True, capture_output=True)
    c = Cross(program, work / "tokenizers", table, name, folder / "model", folder / "batch.jsonl")
    cases = [json.loads(line) for line in cases.read_text().splitlines()]
    try:
        path = c.export("gguf", gguf_type="f16")
    except Refused as e:
        c.refusal_line("tokenizer", "llama.cpp", str(e), "--format merged")
        return
    got = c.llama(path, texts=[x["text"] for x in cases], run=False)
    if isinstance(got, str):
        c.row("tokenizer", "llama.cpp", got, False)
        return
    # llama.cpp splits at newlines, whatever the vocabulary says
    never = {i for piece, i in vocab.items() if "\n" in piece and piece.strip("\n")}
    right = across = 0
    for case, plain, special in zip(cases, json.loads(str(got["tokens"])),
                                    json.loads(str(got["tokens_special"]))):
        same = plain == case["ids"] and special == case["ids_special"]
        right += same
        across += not same and bool(never & set(case["ids"]))
    result = f"{right} of {len(cases)} texts give the same tokens"
    if across:
        result += f"; {across} need pieces across a newline, which it never makes"
    c.row("tokenizer", "llama.cpp", result, right + across == len(cases))
