"""llama.cpp, asked through its C interface: run as a process of its own, since it aborts on what it
does not like.

    python engine_llama.py SPEC.json OUT.npz

SPEC: model (a GGUF file), lora (a GGUF adapter, or absent), rows (lists of ids: logits of every
position), prompts (lists of ids) with new_tokens (greedy text of each), texts (to tokenise, with
and without special tokens). OUT: logits, greedy, tokens, tokens_special (the last three as JSON),
chat_template.
"""
import ctypes
import json
import sys

import llama_cpp as lc
import numpy as np

F32 = 0  # ggml's number: keys and values in the cache


@lc.llama_log_callback
def log(level, text, user_data):
    if level >= 4:
        sys.stderr.write(text.decode(errors="replace"))


class Model:
    def __init__(self, path, lora, longest, vocab_only):
        params = lc.llama_model_default_params()
        params.vocab_only = vocab_only
        params.use_extra_bufts = False  # no repacking: the plain products
        self.model = lc.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {path}")
        self.vocab = lc.llama_model_get_vocab(self.model)
        self.n_vocab = lc.llama_vocab_n_tokens(self.vocab)
        self.ctx = None if vocab_only else self.context(longest)
        if lora:
            adapter = lc.llama_adapter_lora_init(self.model, str(lora).encode())
            if not adapter:
                raise SystemExit(f"llama.cpp does not load {lora}")
            adapters = (lc.llama_adapter_lora_p_ctypes * 1)(adapter)
            if lc.llama_set_adapters_lora(self.ctx, adapters, 1, (ctypes.c_float * 1)(1.0)):
                raise SystemExit(f"llama.cpp does not apply {lora}")

    def context(self, longest):
        params = lc.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = max(longest, 64)
        params.n_threads = params.n_threads_batch = 2
        params.flash_attn_type = 0
        params.type_k = params.type_v = F32
        ctx = lc.llama_init_from_model(self.model, params)
        if not ctx:
            raise SystemExit("llama.cpp makes no context")
        return ctx

    def logits(self, ids):
        """(len(ids), vocab), the row alone."""
        lc.llama_memory_clear(lc.llama_get_memory(self.ctx), True)
        batch = lc.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, 1
        if lc.llama_decode(self.ctx, batch):
            raise SystemExit("llama.cpp does not decode a row")
        out = [np.ctypeslib.as_array(lc.llama_get_logits_ith(self.ctx, i), (self.n_vocab,)).copy()
               for i in range(len(ids))]
        lc.llama_batch_free(batch)
        return np.stack(out)

    def greedy(self, ids, n, ends):
        new = []
        while len(new) < n and (best := int(self.logits(ids + new)[-1].argmax())) not in ends:
            new.append(best)
        return new

    def tokens(self, text, special):
        raw = text.encode()
        room = (lc.llama_token * (2 * len(raw) + 16))()
        n = lc.llama_tokenize(self.vocab, raw, len(raw), room, len(room), special, True)
        return list(room[:max(n, 0)])


def main():
    spec = json.load(open(sys.argv[1]))
    rows, prompts, texts = (spec.get(k, []) for k in ("rows", "prompts", "texts"))
    n = spec.get("new_tokens", 0)
    lc.llama_log_set(log, None)
    lc.llama_backend_init()
    longest = max([len(r) for r in rows] + [len(p) + n for p in prompts] + [1])
    m = Model(spec["model"], spec.get("lora"), longest, not rows and not prompts)
    template = lc.llama_model_chat_template(m.model, None)
    np.savez(
        sys.argv[2],
        logits=np.concatenate([m.logits(r) for r in rows]) if rows else np.zeros(0),
        greedy=json.dumps([m.greedy(p, n, spec.get("ends", [])) for p in prompts]),
        tokens=json.dumps([m.tokens(t, False) for t in texts]),
        tokens_special=json.dumps([m.tokens(t, True) for t in texts]),
        chat_template=template.decode() if template else "")


if __name__ == "__main__":
    main()
