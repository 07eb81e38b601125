"""Trains the quickstart's tokenizer: byte-pair encoding in Gemma's form, written as a tokenizer.json.

Two rounds of merges. The first builds words without the space before them; the second puts the space mark in front of whole
words. So "water" and " water" share all their merges, and a word in quotes is one piece as it is in a sentence. No merge
crosses a word, and digits stay alone, as in Gemma.
"""
import json
import re
from collections import Counter

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"]
MARK = "\u2581"  # stands for a space
CHUNK = re.compile(r"( ?)('[a-z]+|[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]+)|(\s)")


def train(texts, size):
    """Returns the pieces in the order of their ids, and the merges in the order in which they apply."""
    chunks, spaced, letters = Counter(), Counter(), {MARK, "\n"} | {chr(c) for c in range(33, 127)}
    for text in texts:
        letters.update(text.replace(" ", MARK))
        for space, chunk, _ in CHUNK.findall(text):
            if not chunk: continue
            chunks[chunk] += 1
            if space and not chunk.isdigit(): spaced[chunk] += 1
    pieces = SPECIAL + [f"<0x{b:02X}>" for b in range(256)] + sorted(letters)
    known, merges = set(pieces), []

    def learn(left, right):
        merges.append((left, right))
        if left + right not in known: pieces.append(left + right)
        known.add(left + right)

    words = {chunk: list(chunk) for chunk in chunks}
    while True:
        pairs = Counter()
        for chunk, parts in words.items():
            for pair in zip(parts, parts[1:]): pairs[pair] += chunks[chunk]
        marked = [chunk for chunk, n in spaced.most_common() if len(words[chunk]) == 1]
        if not pairs or len(pieces) + len(marked) >= size: break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learn(*best)
        for chunk, parts in words.items():
            if best[0] in parts: words[chunk] = merged(parts, best)
    for chunk in marked[: size - len(pieces)]: learn(MARK, chunk)
    return pieces, merges


def merged(parts, pair):
    out, i = [], 0
    while i < len(parts):
        both = parts[i : i + 2] == list(pair)
        out.append("".join(pair) if both else parts[i])
        i += 2 if both else 1
    return out


def as_json(pieces, merges):
    """The text of tokenizer.json."""
    def token(piece):
        return {"SpecialToken": {"id": piece, "type_id": 0}}

    def sequence(name):
        return {"Sequence": {"id": name, "type_id": 0}}

    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": piece, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
                         for i, piece in enumerate(SPECIAL)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": MARK},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": {"type": "TemplateProcessing", "single": [token("<bos>"), sequence("A")],
                           "pair": [token("<bos>"), sequence("A"), token("<bos>"), sequence("B")],
                           "special_tokens": {"<bos>": {"id": "<bos>", "ids": [SPECIAL.index("<bos>")], "tokens": ["<bos>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": MARK}, "content": " "},
                                                     {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": [list(pair) for pair in merges]}},
        ensure_ascii=False, indent=0) + "\n"
