#!/usr/bin/env python3
"""Makes tests/golden/gguf/tokenizer-*.gguf: vocabularies alone in GGUF files, and (.jsonl) what the
libraries transformers and tokenizers make of texts with the same pieces, scores and merges.

    python tests/golden/make_gguf_tokenizers.py tests/golden/gguf

The pieces are those of tests/golden/tokenizer. Needs gguf, transformers, tokenizers."""
import json
import sys
from pathlib import Path

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import GemmaTokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import generate_merges

HERE = Path(__file__).parent
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
MARK = "\u2581"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


def read(name):
    file = json.loads((HERE / "tokenizer" / f"{name}.json").read_text())
    texts = [json.loads(line)["text"] for line in (HERE / "tokenizer" / f"{name}.jsonl").open()]
    vocab = dict(file["model"]["vocab"])
    for token in file["added_tokens"]:
        vocab.setdefault(token["content"], token["id"])
    special = {t["content"] for t in file["added_tokens"] if t["special"]}
    user = {t["content"] for t in file["added_tokens"] if not t["special"]}
    return vocab, [tuple(m) for m in file["model"]["merges"]], special, user, texts


def template(bos, bos_id):
    return processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bos_id)])


def add_tokens(tok, vocab, special, user):
    tok.add_special_tokens([AddedToken(t, normalized=False) for t in sorted(special, key=vocab.get)])
    tok.add_tokens([AddedToken(t, normalized=False, special=False) for t in sorted(user, key=vocab.get)])


def write(out, name, tok, vocab, types, model, texts, bos=None, pre=None, merges=None, scores=None,
          more=()):
    w = gguf.GGUFWriter(str(out / f"tokenizer-{name}.gguf"), "gemma4")
    pieces = sorted(vocab, key=vocab.get)
    assert [vocab[p] for p in pieces] == list(range(len(pieces)))
    w.add_tokenizer_model(model)
    if pre:
        w.add_tokenizer_pre(pre)
    w.add_token_list(pieces)
    w.add_token_types([types(p) for p in pieces])
    if scores:
        w.add_token_scores([scores.get(p, -1000.0) for p in pieces])
    if merges:
        w.add_token_merges([" ".join(m) for m in merges])
    if bos:
        w.add_bos_token_id(vocab[bos])
    for key, value in more:
        getattr(w, key)(value)
    w.add_chat_template(TEMPLATE)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    with (out / f"tokenizer-{name}.jsonl").open("w") as f:
        for text in texts:
            ids = tok.encode(text, add_special_tokens=False).ids
            row = {"text": text, "ids": ids, "ids_special": tok.encode(text).ids,
                   "decoded": tok.decode(ids, skip_special_tokens=False),
                   "decoded_skip_special": tok.decode(ids, skip_special_tokens=True)}
            f.write(json.dumps(row) + "\n")


def gemma(out):
    """Pieces of characters: by listed merges, and by scores, with and without a space in front."""
    vocab, merges, special, user, texts = read("byte_fallback")
    byte = lambda p: len(p) == 6 and p.startswith("<0x")
    types = lambda p: (UNKNOWN if p == "<unk>" else CONTROL if p in special
                       else USER if p in user else BYTE if byte(p) else NORMAL)
    named = [("add_eos_token_id", 1), ("add_unk_token_id", 3), ("add_pad_token_id", 0)]
    tok = GemmaTokenizer(vocab=dict(vocab), merges=merges, bos_token="<s>", eos_token="</s>",
                         mask_token=None)._tokenizer
    add_tokens(tok, vocab, special, user)
    tok.post_processor = template("<s>", vocab["<s>"])
    write(out, "gemma4", tok, vocab, types, "gemma4", texts, "<s>", merges=merges,
          more=[*named, ("add_add_space_prefix", False)])

    rank = {}
    for i, (left, right) in enumerate(merges):
        rank.setdefault(left + right, -float(i))
    spaces = {**vocab, "  ": len(vocab), "   ": len(vocab) + 1}  # as conversion writes runs of spaces
    user = user | {"  ", "   "}
    scores = {p: rank.get(p, -1000.0 - vocab[p]) for p in vocab if types(p) == NORMAL}
    by_scores = generate_merges({p: vocab[p] for p in scores}, scores)
    for name, prefix in (("llama", False), ("llama-prefix", True)):
        tok = Tokenizer(BPE(vocab=spaces, merges=by_scores, fuse_unk=True, byte_fallback=True,
                            unk_token="<unk>"))
        marks = [normalizers.Prepend(MARK)] * prefix + [normalizers.Replace(" ", MARK)]
        tok.normalizer = normalizers.Sequence(marks)
        tok.decoder = decoders.Sequence(
            [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
            + [decoders.Strip(" ", 1, 0)] * prefix)
        add_tokens(tok, spaces, special, user)
        tok.post_processor = template("<s>", vocab["<s>"])
        types_too = lambda p: USER if p in user else types(p)
        write(out, name, tok, spaces, types_too, "llama", texts[:12] + ["a  b   c    d"], "<s>",
              scores=scores, more=named + ([] if prefix else [("add_add_space_prefix", False)]))


def bytes_(out):
    """Pieces of bytes, words cut in three ways."""
    vocab, merges, special, user, texts = read("byte_level")
    types = lambda p: CONTROL if p in special else USER if p in user else NORMAL
    inner = {p: i for p, i in vocab.items() if types(p) == NORMAL}
    tok = Qwen2Tokenizer(vocab=dict(inner), merges=merges, unk_token=None)._tokenizer
    qwen = Tokenizer(BPE(vocab=inner, merges=merges))
    qwen.normalizer, qwen.pre_tokenizer = tok.normalizer, tok.pre_tokenizer
    llama = Tokenizer(BPE(vocab=inner, merges=merges, ignore_merges=True))
    llama.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    gpt2 = Tokenizer(BPE(vocab=inner, merges=merges))
    gpt2.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for name, tok, with_bos in (("qwen2", qwen, False), ("llama-bpe", llama, True), ("gpt-2", gpt2, False)):
        tok.decoder = decoders.ByteLevel()
        add_tokens(tok, vocab, special, user)
        if with_bos:
            tok.post_processor = template("<s>", vocab["<s>"])
        write(out, name, tok, vocab, types, "gpt2", texts[:14] + ["In 12345 days, e\u0301t\u00e9!"],
              "<s>", pre=name, merges=merges,
              more=[("add_eos_token_id", vocab["</s>"])] + [("add_add_bos_token", True)] * with_bos)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    gemma(folder)
    bytes_(folder)
