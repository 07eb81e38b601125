#!/usr/bin/env python3
"""Makes everything the quickstart ships except the weights, and the reading that the weights come from.

  python3 train/quickstart/make_data.py                            what is shipped, into configs/quickstart/
  python3 train/quickstart/make_data.py --pretrain DIR [--rows N]  the base model's reading: DIR/text.jsonl, chat.jsonl, copy.jsonl

Run from the repository root; the standard library is enough. The same seed gives the same bytes, and all texts are made up
here (world.py: the words and the requests; corpus.py: the reading; bpe.py: the tokenizer).

The base model is Gemma 4's architecture made small: sliding and full attention, keys that serve as values, a dense MLP beside
16 experts of which each token takes 2; 3.4 million parameters. This program pretrained it (configs/quickstart/pretrain.yaml)
on simple English, quotes, lists, notices with little JSON cards, and chats that answer every request in a plain sentence: "Of
course. I will remind you to water the roses tomorrow at nine." It never read a request that was answered by a command.

The fine-tune (configs/quickstart/finetune.yaml, train.jsonl) teaches it to answer with the command itself, for a program to
carry out: {"Remind":"water the roses","when":"tomorrow 09:00"}. heldout.jsonl tells whether it has learned that:
the first half asks for combinations that no training row has, and in the second half each request has a word (a name, a place,
a thing) that no training row has at all, though the base model has read it. prompts.jsonl is the same requests without answers.
"""
import argparse
import json
import os
import random
import re

import bpe
from corpus import Corpus, dump
from world import World

HOME = "configs/quickstart"
PIECES = 2048
TRAIN_REQUESTS, HELDOUT_ROWS = 1500, 64
CHECK_ROWS = 200

CONFIG = {
    "architectures": ["Gemma4ForCausalLM"], "model_type": "gemma4_text", "dtype": "bfloat16",
    "vocab_size": PIECES, "vocab_size_per_layer_input": PIECES, "hidden_size": 128, "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2, "sliding_window": 64,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "num_global_key_value_heads": 1, "global_head_dim": 64, "attention_k_eq_v": True, "attention_bias": False, "attention_dropout": 0.0,
    "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                        "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25}},
    "max_position_embeddings": 512, "intermediate_size": 192, "hidden_activation": "gelu_pytorch_tanh",
    "enable_moe_block": True, "num_experts": 16, "top_k_experts": 2, "moe_intermediate_size": 64,
    "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "use_double_wide_mlp": False, "use_bidirectional_attention": None,
    "rms_norm_eps": 1e-6, "initializer_range": 0.05, "final_logit_softcapping": 30.0, "tie_word_embeddings": True, "use_cache": True,
    "pad_token_id": bpe.SPECIAL.index("<pad>"), "bos_token_id": bpe.SPECIAL.index("<bos>"),
    "eos_token_id": [bpe.SPECIAL.index("<eos>"), bpe.SPECIAL.index("<turn|>")],
}

TOKENIZER_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>",
                    "pad_token": "<pad>", "clean_up_tokenization_spaces": False, "model_max_length": CONFIG["max_position_embeddings"]}

TEMPLATE = r"""{{- bos_token -}}
{%- for message in messages -%}
    {{- '<|turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' -}}
    {{- message['content'] | trim + '<turn|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|turn>model\n' -}}
{%- endif -%}
"""


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as f: f.write(text)


def chat_row(*exchanges):
    """A row of (request, answer) pairs; an answer may be None."""
    messages = []
    for ask, answer in exchanges:
        messages.append({"role": "user", "content": ask})
        if answer is not None: messages.append({"role": "assistant", "content": answer})
    return json.dumps({"messages": messages}) + "\n"


def conversations(rng, requests):
    """Rows of one request, most of them, up to five: the same requests in their order."""
    rows, i = [], 0
    while i < len(requests):
        n = rng.choice([1, 1, 1, 1, 1, 2, 3, 5])
        rows.append(chat_row(*[(r.ask, dump(r.command)) for r in requests[i : i + n]]))
        i += n
    return "".join(rows)


def words(request):
    return set(re.findall("[a-z]+", request.ask.lower()))


def requests(world, n, known, read=None):
    """n requests that are not known already, nor are their commands; they are then. With read: each has a word that is not read."""
    found = []
    while len(found) < n:
        request = world.request()
        new = {request.ask, dump(request.command)}
        if new & known or read and words(request) <= read: continue
        known |= new
        found.append(request)
    return found


def make_model(seed):
    corpus = Corpus(random.Random(f"{seed} tokenizer"))
    texts = ["user\nmodel\n"] * 6000
    for _ in range(6000):
        texts += [corpus.text(), *corpus.chat()]
    pieces, merges = bpe.train(texts, PIECES)
    if len(pieces) > PIECES: raise SystemExit(f"{len(pieces)} pieces, room for {PIECES}")
    home = os.path.join(HOME, "model")
    write(os.path.join(home, "tokenizer.json"), bpe.as_json(pieces, merges))
    write(os.path.join(home, "tokenizer_config.json"), json.dumps(TOKENIZER_CONFIG, indent=1) + "\n")
    write(os.path.join(home, "config.json"), json.dumps(CONFIG, indent=1) + "\n")
    write(os.path.join(home, "chat_template.jinja"), TEMPLATE)
    print(f"{len(pieces)} pieces, {len(merges)} merges, {parameters(CONFIG):,} parameters")


def parameters(c):
    """How many numbers the weights hold."""
    h, total = c["hidden_size"], c["vocab_size"] * c["hidden_size"] + c["hidden_size"]
    for kind in c["layer_types"]:
        full = kind == "full_attention"
        d, kv = (c["global_head_dim"], c["num_global_key_value_heads"]) if full else (c["head_dim"], c["num_key_value_heads"])
        total += h * d * (2 * c["num_attention_heads"] + (kv if full else 2 * kv)) + 2 * d   # q, o; k, v; q_norm, k_norm
        total += 3 * h * (c["intermediate_size"] + c["num_experts"] * c["moe_intermediate_size"])
        total += c["num_experts"] * (h + 1) + h                                             # router: proj, per_expert_scale, scale
        total += 7 * h + 1                                                                  # norms, layer_scalar
    return total


def make_rows(seed):
    known = set()
    rng = random.Random(f"{seed} rows")
    train = requests(World(rng, "common"), TRAIN_REQUESTS, known)
    read = set().union(*map(words, train))
    half = HELDOUT_ROWS // 2
    heldout = requests(World(rng, "common"), half, known) + requests(World(rng, "reserved"), half, known, read)
    write(os.path.join(HOME, "train.jsonl"), conversations(random.Random(f"{seed} conversations"), train))
    write(os.path.join(HOME, "heldout.jsonl"), "".join(chat_row((r.ask, dump(r.command))) for r in heldout))
    write(os.path.join(HOME, "prompts.jsonl"), "".join(chat_row((r.ask, None)) for r in heldout))


def make_reading(seed, home, rows):
    corpus = Corpus(random.Random(f"{seed} reading"))
    os.makedirs(home, exist_ok=True)
    with open(os.path.join(home, "text.jsonl"), "w", encoding="utf-8") as text, open(os.path.join(home, "chat.jsonl"), "w", encoding="utf-8") as chat:
        for i in range(rows):
            if i % 2: chat.write(chat_row(corpus.chat()))
            else: text.write(json.dumps({"text": corpus.text()}) + "\n")
    check = Corpus(random.Random(f"{seed} check"))
    write(os.path.join(home, "copy.jsonl"), "".join(copy_row(check.babble(8)) for _ in range(CHECK_ROWS)))


def copy_row(words):
    """Eight words in no order, then as a list: the loss on the list is small only once the model copies what it has read."""
    return json.dumps({"prompt": " ".join(words) + "\n", "completion": dump(words)}) + "\n"


if __name__ == "__main__":
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--pretrain", metavar="DIR", help="write the base model's reading there, and nothing else")
    args.add_argument("--rows", type=int, default=500000)
    args = args.parse_args()
    if args.pretrain: make_reading(args.seed, args.pretrain, args.rows)
    else:
        make_model(args.seed)
        make_rows(args.seed)
