"""Real weights: Gemma 3 270M in a Q4_K_M file, as ours and as the reference's base. Tokens, answers of
what is written, and a LoRA step's speed and memory beside the reference's, in turns."""
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from checks import Cross

TEXTS = [
    "A router sends every token to a few of many experts.",
    "The lamp in the hall was on. She switched it off, and the house was dark.",
    "1, 2, 4, 8, 16 -- and then?\n\n  Größer: ∑ x² = 30 🙂",
]
SEQUENCE, STEPS, ROUNDS = 512, 10, 3
SKIPPED = 2  # steps at first, which also make memory and kernels
# rms of logits between -30 and 30; llama.cpp's GELU is a table in half precision
REAL_BOUND = 1e-2


def llama_lines(table, program, work, gguf):
    rows = work / "real.jsonl"
    texts = work / "real-texts.jsonl"
    texts.write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    subprocess.run([program, "preprocess", "--base_model", gguf, "--datasets", texts,
                    "--datasets.0.type", "text", "--sequence_len", "512", "--output", rows,
                    "--overwrite", "true"], check=True, capture_output=True)
    c = Cross(program, work, table, "gemma3-270m", gguf, rows)
    got = c.llama(gguf, texts=TEXTS, run=False)
    # a text row ends with the end-of-text token
    same = [r[:-1] for r in c.rows] == json.loads(str(got["tokens_special"]))
    c.row("its own file: tokenizer", "llama.cpp", "the same tokens" if same else "other tokens", same)
    base = c.export("gguf", None, "base.gguf", gguf_type="f32")
    adapter = c.train("adapter", lora_target_parameters="")
    for what, model, lora, learned in (
            ("base: gguf f32", base, None, None),
            ("adapter: gguf f32", c.export("gguf", adapter, "whole.gguf", gguf_type="f32"), None, adapter),
            ("adapter: gguf-lora beside gguf f32", base,
             c.export("gguf-lora", adapter, "lora.gguf", base_gguf=base), adapter)):
        c.llama_line(what, model, lora, c.answers(learned), bound=REAL_BOUND)


def ours(program, work, gguf, compute):
    rows = work / "speed.jsonl"
    ids = [2] + [1000 + 37 * i % 100000 for i in range(SEQUENCE - 1)]
    rows.write_text((json.dumps({"input_ids": ids}) + "\n") * STEPS)
    out = work / "speed"
    subprocess.run([program, "train", "--base_model", gguf, "--datasets", rows, "--datasets.0.type",
                    "tokens", "--lora_r", "8", "--lora_target_parameters=", "--max_steps", str(STEPS),
                    "--compute", compute, "--output_dir", out, "--overwrite", "true"],
                   check=True, capture_output=True)
    lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    return (statistics.median(x["tokens_per_second"] for x in lines[SKIPPED:]),
            max(x["peak_memory_bytes"] for x in lines))


def reference(gguf, dtype):
    done = subprocess.run([sys.executable, "-W", "ignore", __file__, str(gguf), dtype],
                          capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr[-200:]


def speed_lines(table, program, work, gguf):
    for compute, dtype in (("f32", "float32"), ("bf16", "bfloat16")):
        rounds = [(ours(program, work, gguf, compute), reference(gguf, dtype)) for _ in range(ROUNDS)]
        if isinstance(rounds[0][1], str):
            table.row("gemma3-270m", f"LoRA step, {compute}", "Transformers", rounds[0][1], None)
            continue
        for who, i in (("moesmith", 0), ("Transformers", 1)):
            speed = statistics.median(r[i][0] for r in rounds)
            peak = max(r[i][1] for r in rounds) / 2**30
            table.row("gemma3-270m", f"LoRA step of 1 x {SEQUENCE}, r 8, {compute}", who,
                      f"{speed:.0f} tokens/s, {peak:.2f} GiB", None)


def all_lines(table, program, work, gguf):
    llama_lines(table, program, work, gguf)
    speed_lines(table, program, work, gguf)


def reference_steps(gguf, dtype):
    """In a process of its own: tokens per second and the peak of resident memory."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model
    torch.set_num_threads(2)
    m = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name,
                                                          dtype=getattr(torch, dtype))
    m = get_peft_model(m, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=8,
                                     target_modules="all-linear")).train()
    learns = [p for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learns, lr=2e-4)
    ids = torch.tensor([[2] + [1000 + 37 * i % 100000 for i in range(SEQUENCE - 1)]])
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        m(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(learns, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([SEQUENCE / statistics.median(seconds[SKIPPED:]), peak]))


if __name__ == "__main__":
    reference_steps(Path(sys.argv[1]), sys.argv[2])
