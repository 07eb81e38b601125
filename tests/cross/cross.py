"""What tests/cross.sh runs: writes every format by this program, loads it with the engine it is for,
and prints what came of it.

    python cross.py --moesmith PROGRAM --work DIR [--tokenizer TOKENIZER.json CASES.jsonl] MODELS...

A model is a folder of the layout of tests/golden/models: model/, adapter/, batch.jsonl. Exit status:
1 where a line of the table fails.
"""
import argparse
import sys
from pathlib import Path

import made
import real
from checks import HAS_MLX, Cross, tokenizer_lines
from table import Table


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--moesmith", required=True)
    args.add_argument("--work", type=Path, required=True)
    args.add_argument("--tokenizer", type=Path, nargs=2, action="append", default=[])
    args.add_argument("--real", type=Path, help="a Gemma 3 GGUF file with real weights")
    args.add_argument("models", type=Path, nargs="+")
    args = args.parse_args()
    table = Table()
    if not HAS_MLX:
        table.row("all models", "merged, mlx", "mlx-lm", "it is not installed: nothing is checked", None)
    for folder in [*args.models, *made.make(args.work / "made")]:
        Cross(args.moesmith, args.work, table, folder.name, folder / "model",
              folder / "batch.jsonl").all_lines()
    for tokenizer, cases in args.tokenizer:
        tokenizer_lines(table, args.moesmith, args.work, args.models[0], tokenizer, cases)
    if args.real:
        real.all_lines(table, args.moesmith, args.work, args.real)
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
