#!/usr/bin/env python3
"""Makes the folder moe and moe.json beside this file: a small tokenizer and chat template for
tests/golden/models/moe, and what llama.cpp's own converter writes of model and tokenizer together:
every key, and of every tensor its type, its dimensions (row-major) and the hash of its bytes.

    python tests/golden/gguf/make_facts.py LLAMA_CPP

LLAMA_CPP: its source tree, with convert_hf_to_gguf.py (the source archive of llama-cpp-python has
one in vendor/). Needs gguf, torch, Transformers.
"""
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf

HERE = Path(__file__).parent
MODEL = HERE.parent / "models" / "moe" / "model"
# What this program says otherwise or not at all: names, sizes for display, what has no effect.
LEFT_OUT = ("GGUF.", "general.name", "general.size_label", "tokenizer.ggml.add_sep_token")
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<turn|>", "<|channel>"]
MERGES = ["a b", "c d", "ab cd", "▁ a", "▁a b", "e f", "ef ▁a", "\n \n", "g h", "gh ef"]
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}<turn|>\n{% endfor %}"


def write_tokenizer(folder):
    pieces = SPECIAL + [f"<0x{b:02X}>" for b in range(48, 58)] + list("abcdefgh▁\n")
    pieces += [m.replace(" ", "") for m in MERGES]
    pieces += [chr(c) for c in range(0x3b1, 0x3b1 + 96 - len(pieces) - 1)]
    vocab = {p: i for i, p in enumerate(pieces)}
    added = [dict(id=i, content=p, single_word=False, lstrip=False, rstrip=False, normalized=False,
                  special=True) for i, p in enumerate(SPECIAL)]
    added.append(dict(added[0], id=95, content="<tool>", special=False))
    replace = lambda a, b: dict(type="Replace", pattern=dict(String=a), content=b)
    tokenizer = dict(
        version="1.0", truncation=None, padding=None, added_tokens=added,
        normalizer=replace(" ", "▁"), pre_tokenizer=None, post_processor=None,
        decoder=dict(type="Sequence", decoders=[replace("▁", " "), dict(type="ByteFallback"),
                                                dict(type="Fuse")]),
        model=dict(type="BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix=None,
                   end_of_word_suffix=None, fuse_unk=True, byte_fallback=True, ignore_merges=False,
                   vocab=vocab, merges=MERGES))
    config = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<bos>", eos_token="<eos>",
                  unk_token="<unk>", pad_token="<pad>",
                  extra_special_tokens=["<turn|>", "<|channel>"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write = lambda name, text: (folder / name).write_text(text, encoding="utf-8")
    write("tokenizer.json", json.dumps(tokenizer, ensure_ascii=False, indent=0) + "\n")
    write("tokenizer_config.json", json.dumps(config, indent=1) + "\n")
    write("chat_template.jinja", TEMPLATE)


def fnv(data):
    h = 0xcbf29ce484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001b3 % 2**64
    return f"{h:016x}"


def facts(path):
    reader = gguf.GGUFReader(path)
    keys = {f.name: f.contents() for f in reader.fields.values() if not f.name.startswith(LEFT_OUT)}
    tensors = {t.name: dict(type=t.tensor_type.name, dims=[int(x) for x in t.shape[::-1]],
                            fnv=fnv(t.data.tobytes())) for t in reader.tensors}
    return dict(keys=keys, tensors=tensors)


def main(llama):
    write_tokenizer(HERE / "moe")
    out = {}
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        shutil.copytree(MODEL, work / "model")
        shutil.copytree(HERE / "moe", work / "model", dirs_exist_ok=True)
        for kind in ("f32", "bf16"):
            subprocess.run([sys.executable, llama / "convert_hf_to_gguf.py", "--outtype", kind,
                            "--outfile", work / "x.gguf", work / "model"], check=True)
            out[kind] = facts(work / "x.gguf")
    (HERE / "moe.json").write_text(json.dumps(out, indent=0) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
