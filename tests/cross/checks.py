"""The lines of the table: a model, what was written of it, who read it, and what came of it."""
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import h5py
import numpy as np

import engine_peft
from table import DISTANCE, NEW_TOKENS, measured

HERE = Path(__file__).parent
BOUND = 1e-4  # largest difference of logits, float32: PEFT and mlx-lm
LLAMA_BOUND = 3e-3  # rms: llama.cpp's GELU is a table in half precision
GELU_BOUND = 1e-3  # rms, against Transformers with that GELU, where it tips a router or the text
QUANTISED = ("bf16", "q8_0", "q4_0", "mxfp4")
ROUTERS = ("lora", "full", "full,scale", "scale,per_expert_scale")
# What engines do otherwise than Transformers, what makes it do so, and the bound then.
HALF_GELU = ("llama.cpp's GELU is a table in half precision, which tips a near tie of experts or words here",
             engine_peft.use_half_gelu, "rms", GELU_BOUND)
ROUND_FACTOR = ("mlx-lm rounds the factor of gemma3's embeddings to bfloat16",
                engine_peft.use_bfloat16_factor, "max", BOUND)
HAS_MLX = bool(importlib.util.find_spec("mlx") and importlib.util.find_spec("mlx_lm"))


class Refused(Exception):
    """The program's own sentence."""

    def __init__(self, done):
        super().__init__(done.stderr.strip().splitlines()[-1].removeprefix("moesmith: "))


class Cross:
    def __init__(self, program, work, table, name, model, batch):
        """model: what base_model may be; batch: rows of type tokens."""
        self.program, self.table, self.name, self.model, self.batch = program, table, name, model, batch
        self.work = work / name
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.rows = [json.loads(line)["input_ids"] for line in self.batch.read_text().splitlines()]
        self.prompts = [r[:max(2, len(r) // 2)] for r in self.rows[:3]]
        self.is_open, self.is_whole, self.ends = False, True, [1]  # by Transformers, with its towers
        self.config = self.text = {}
        if model.is_dir():
            self.config = json.loads((model / "config.json").read_text())
            self.text = self.config.get("text_config", self.config)
            ends = self.config.get("eos_token_id", self.text.get("eos_token_id"))
            self.ends = ends if isinstance(ends, list) else [ends]

    def row(self, what, engine, result, good, note=None):
        self.table.row(self.name, what, engine, result, good, note)

    # ---- this program ----

    def run(self, verb, **keys):
        """What it prints."""
        flags = [x for k, v in keys.items() for x in ("--" + k, str(v))]
        done = subprocess.run([self.program, verb, "--base_model", self.model, "--overwrite", "true",
                               *flags, "--json"], capture_output=True, text=True)
        if done.returncode:
            raise Refused(done)
        return done.stdout

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

    def answers(self, adapter=None):
        return self.logits(adapter), self.greedy(adapter)

    # ---- the engines: (logits, text), or a string: why there are none ----

    def ask(self, script, run=True, **spec):
        """An engine in a process of its own: what it writes."""
        path, out = self.work / "spec.json", self.work / "engine.npz"
        out.unlink(missing_ok=True)
        rows, prompts = (self.rows, self.prompts) if run else ([], [])
        path.write_text(json.dumps(spec | dict(rows=rows, prompts=prompts, new_tokens=NEW_TOKENS,
                                               ends=self.ends), default=str))
        done = subprocess.run([sys.executable, "-W", "ignore", HERE / script, path, out],
                              capture_output=True, text=True)
        if done.returncode or not out.exists():
            lines = done.stderr.strip().splitlines()
            return lines[-1][:200] if lines else f"ended with status {done.returncode}"
        return np.load(out)

    def llama(self, model, lora=None, texts=(), run=True):
        return self.ask("engine_llama.py", run, model=model, lora=lora, texts=list(texts))

    def mlx(self, model, adapter=None, config=None):
        return self.ask("engine_mlx.py", model=model, adapter=adapter, config=config or {})

    def flat_config(self):
        """What mlx-lm has to be told of a config.json, since it knows the older, flat keys alone."""
        flat = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
        layers = self.text.get("per_layer_config", {}).values()
        told = {flat[k]: v for layer in layers for k, v in layer.items()}
        if self.text is not self.config:
            told["vocab_size"] = self.text["vocab_size"]
        return told

    def transformers(self, checkpoint=None, adapter=None):
        return engine_peft.load(checkpoint or self.model, adapter, self.is_whole)

    def asked(self, m):
        return (engine_peft.logits(m, self.rows),
                engine_peft.greedy(m, self.prompts, NEW_TOKENS, self.ends))

    # ---- lines of the table ----

    def line(self, what, engine, got, ours, kind, bound, second=None):
        """second: where that bound is not kept, whether another is, and how: (good, note)."""
        if isinstance(got, str):
            self.row(what, engine, got, False)
            return
        if not isinstance(got, tuple):
            got = got["logits"], json.loads(str(got["greedy"]))
        far, same = DISTANCE[kind](got[0] - ours[0]), got[1] == ours[1]
        good, note = far <= bound and same, None
        if not good and second and self.is_open:
            good, note = second(got)
        self.row(what, engine, measured(kind, far, bound, same), good, note)

    def by_float64(self, engine, got, ours, checkpoint=None, adapter=None):
        """Whose rounding is it?"""
        exact = engine_peft.exact_logits(self.transformers(checkpoint, adapter), self.rows)
        far, own = (DISTANCE["max"](x[0] - exact) for x in (ours, got))
        return (far <= min(BOUND, own) and got[1] == ours[1],
                f"{engine} rounds more than we do: from Transformers in float64 this program's logits are "
                f"{far:.1e} (of {BOUND:.0e}), {engine}'s own {own:.1e}")

    def by_likeness(self, like, got, adapter):
        why, change, kind, bound = like
        theirs = self.asked(change(self.transformers(None, adapter)))
        far, same = DISTANCE[kind](got[0] - theirs[0]), got[1] == theirs[1]
        return (far <= bound and same,
                f"{why}; from Transformers made to do so: {measured(kind, far, bound, same)}")

    def peft_line(self, what, ours, checkpoint=None, adapter=None):
        engine = "PEFT" if adapter else "Transformers"
        self.line(what, engine, self.asked(self.transformers(checkpoint, adapter)), ours, "max", BOUND,
                  lambda got: self.by_float64(engine, got, ours, checkpoint, adapter))

    def mlx_line(self, what, ours, checkpoint=None, adapter=None, learned=None):
        """learned: the adapter, in PEFT's form, that was merged into checkpoint, or that adapter is."""
        def second(got):
            if self.text["model_type"] == "gemma3_text":
                return self.by_likeness(ROUND_FACTOR, got, learned)
            return self.by_float64("mlx-lm", got, ours, None, learned)
        got = self.mlx(checkpoint or self.model, adapter, self.flat_config())
        self.line(what, "mlx-lm", got, ours, "max", BOUND, second)

    def llama_line(self, what, path, lora, ours, learned=None, bound=LLAMA_BOUND):
        self.line(what, "llama.cpp", self.llama(path, lora), ours, "rms", bound,
                  lambda got: self.by_likeness(HALF_GELU, got, learned))

    def quantised_line(self, what, path, ours):
        """That it loads and runs; what is lost is the format's affair (test_gguf_blocks)."""
        got = self.llama(path)
        if isinstance(got, str):
            self.row(what, "llama.cpp", got, False)
            return
        far = DISTANCE["rms"](got["logits"] - ours[0])
        self.row(what, "llama.cpp", f"runs; logits rms {far:.1e} from float32", None)

    def refusal_line(self, what, engine, sentence, names):
        """A format that cannot carry something says so, and names one that can."""
        self.row(what, engine, "refused, nothing written: " + sentence[:200], names in sentence)

    def verify_line(self, what, kind, written, **more):
        try:
            result = json.loads(self.run("verify", format=kind, output=written, **more).splitlines()[-1])
        except Refused as e:
            self.row(what, "verify", str(e), False)
            return
        self.row(what, "verify", f"applied {result['applied']} of {result['planned']}, logits max "
                                 f"{result['logits']['max_difference']:.1e} from the run's", True)

    # ---- what is written of one adapter ----

    def adapter_lines(self, label, adapter, base, has_mlx):
        """base: its GGUF file, or None; has_mlx: whether mlx-lm opens this model."""
        ours = self.answers(adapter)
        peft = self.export("peft", adapter)
        self.verify_line(f"{label}: peft", "peft", peft, lora_model_dir=adapter)
        # bfloat16 would round what was merged
        merged = self.export("merged", adapter, save_dtype="f32")
        self.verify_line(f"{label}: merged", "merged", merged, lora_model_dir=adapter, save_dtype="f32")
        if self.is_open:
            self.peft_line(f"{label}: peft beside base", ours, None, peft)
            self.peft_line(f"{label}: merged", ours, merged)
        if has_mlx:
            self.mlx_line(f"{label}: merged", ours, merged, None, peft)
        self.mlx_lines(label, adapter, ours, peft, has_mlx)
        if base:
            self.gguf_lines(label, adapter, base, ours, peft)

    def mlx_lines(self, label, adapter, ours, peft, has_mlx):
        try:
            written = self.export("mlx", adapter)
        except Refused as e:
            self.refusal_line(f"{label}: mlx", "mlx-lm", str(e), "merged can")
            return
        self.verify_line(f"{label}: mlx", "mlx", written, lora_model_dir=adapter)
        if has_mlx:
            self.mlx_line(f"{label}: mlx beside base", ours, None, written, peft)

    def gguf_lines(self, label, adapter, base, ours, peft):
        whole = self.export("gguf", adapter, "merged.gguf", gguf_type="f32")
        self.verify_line(f"{label}: gguf f32", "gguf", whole, lora_model_dir=adapter, gguf_type="f32")
        self.llama_line(f"{label}: gguf f32", whole, None, ours, peft)
        try:
            lora = self.export("gguf-lora", adapter, "lora.gguf", base_gguf=base)
        except Refused as e:
            self.refusal_line(f"{label}: gguf-lora", "llama.cpp", str(e), "--format gguf")
            return
        self.verify_line(f"{label}: gguf-lora", "gguf-lora", lora, lora_model_dir=adapter, base_gguf=base)
        self.llama_line(f"{label}: gguf-lora beside base", base, lora, ours, peft)

    def split_line(self, adapter, base):
        """A base file with gate and up of the experts apart, as some converters make them."""
        apart = self.work / "apart.gguf"
        split_experts(base, apart)
        lora = self.export("gguf-lora", adapter, "lora.gguf", base_gguf=apart)
        self.llama_line("adapter: gguf-lora, gate and up apart", apart, lora, self.answers(adapter),
                        self.export("peft", adapter))

    def per_expert_line(self, adapter):
        """PEFT's names of single experts are for engines that are not here: vLLM, SGLang."""
        written = self.export("peft-per-expert", adapter)
        self.verify_line("adapter: peft-per-expert", "peft-per-expert", written, lora_model_dir=adapter)

    # ---- the base ----

    def open_base(self, ours):
        """Transformers reads the checkpoint that is there: what the lines below are measured by."""
        try:
            self.transformers()
        except RuntimeError as e:
            self.row("(the base itself, as stored)", "Transformers", str(e).splitlines()[0][:120], None,
                     "the base's own files lack the vision tower that its config.json names: opened without it")
            self.is_whole = False
        self.is_open = True
        self.peft_line("(the base itself)", ours)

    def open_mlx(self, ours):
        """Whether mlx-lm opens it."""
        if not HAS_MLX:
            return False
        plain, told = self.mlx(self.model), self.flat_config()
        if isinstance(plain, str):
            more = ", ".join(f"{k}={v}" for k, v in told.items())
            self.row("(the base itself, as stored)", "mlx-lm", plain, None,
                     f"it looks in keys that config.json does not have: opened with {more}" if told else None)
            if not told:
                return False
        self.mlx_line("(the base itself)", ours)
        return True

    def base_lines(self, ours):
        """The base's GGUF file; None: llama.cpp cannot run this model."""
        try:
            base = self.export("gguf", None, "base.gguf", gguf_type="f32")
        except Refused as e:
            self.refusal_line("base: gguf", "llama.cpp", str(e), "--format merged")
            return None
        self.llama_line("base: gguf f32", base, None, ours)
        for kind in QUANTISED:
            small = self.export("gguf", None, f"{kind}.gguf", gguf_type=kind)
            self.quantised_line(f"base: gguf {kind}", small, ours)
        template = self.model / "chat_template.jinja"
        if template.exists():
            same = str(self.llama(base, run=False)["chat_template"]) == template.read_text()
            self.row("base: chat template", "llama.cpp", "the same" if same else "another", same)
        return base

    def all_lines(self):
        ours = self.answers()
        self.open_base(ours)
        has_mlx = self.open_mlx(ours)
        base = self.base_lines(ours)
        # one of a model without its towers has names that fit no class with them
        adapter = self.batch.parent / "adapter" if self.is_whole else self.train("adapter")
        self.adapter_lines("adapter", adapter, base, has_mlx)
        if not self.text.get("enable_moe_block"):
            return
        self.per_expert_line(adapter)
        self.split_line(adapter, base)
        for train in ROUTERS:
            learned = self.train("router-" + train, **{"router.train": train})
            self.adapter_lines(f"router {train}", learned, base, has_mlx)


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
