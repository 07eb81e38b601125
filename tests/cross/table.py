"""The table that tests/cross.sh prints."""
from collections import Counter

import numpy as np

NEW_TOKENS = 8
LEGEND = f"""\
written   by this program; beside base: an adapter, which the reader adds to the untouched base itself
logits    of every token of some rows: how far the reader's float32 ones are from this program's, by the
          largest difference (max) or the root of the mean square (rms), and the bound
text      {NEW_TOKENS} tokens of greedy text after each of 3 prompts
ok*       beyond that bound, but within the second that the next line tells
-         nothing is claimed
"""
DISTANCE = {"max": lambda d: float(np.abs(d).max()), "rms": lambda d: float(np.sqrt(np.mean(d ** 2)))}


def measured(kind, far, bound, same):
    return f"logits {kind} {far:.1e} of {bound:.0e}, text {'the same' if same else 'another'}"


class Table:
    def __init__(self):
        self.words = Counter()
        print(LEGEND)
        print(f"{'':6} {'model':20} {'written':48} {'read by':13} result")

    def row(self, model, what, reader, result, good, note=None):
        """good: None where nothing is claimed. note: by what else it is judged, or why it is so."""
        word = {True: "ok*" if note else "ok", False: "WRONG", None: "-"}[good]
        self.words[word] += 1
        print(f"{word:6} {model:20} {what:48} {reader:13} {result}", flush=True)
        if note:
            print(f"{'':6} {'':20} * {note}", flush=True)

    def close(self):
        """The exit status."""
        said = {"ok": "ok", "ok*": "ok by a second bound (*)", "WRONG": "WRONG", "-": "claim nothing"}
        print(f"\n{self.words.total()} lines: " +
              ", ".join(f"{self.words[word]} {text}" for word, text in said.items()))
        return 1 if self.words["WRONG"] else 0
