#!/usr/bin/env python3
"""Rows for real.sh: what is learned and what is held out, and answers before and after.

    rows.py split ROWS.jsonl OUT     OUT/train.jsonl, OUT/heldout.jsonl
    rows.py ask HELDOUT.jsonl OUT    OUT/prompts.jsonl, OUT/shown.jsonl: all requests, and the few that are printed
    rows.py show HELDOUT.jsonl OUT   prints the few, with the answers in OUT/before.jsonl and OUT/after.jsonl
    rows.py exact HELDOUT.jsonl OUT  prints how many answers are word for word as expected

A row is {"messages": [...]} and ends with an assistant's answer; what stands before it is the request.
"""
import json
import os
import sys
import textwrap

HELD_OUT = 64  # at most; and at most a tenth
SHOWN = 6


def read(path):
    with open(path, encoding="utf-8") as file:
        return [(number, json.loads(line)) for number, line in enumerate(file, 1) if line.strip()]


def rows_of(path):
    """The rows, each ending with an answer; sentences for those that do not."""
    try:
        rows = read(path)
    except (OSError, ValueError) as fault:
        sys.exit(f"{path}: {fault}")
    for number, row in rows:
        messages = row.get("messages") if isinstance(row, dict) else None
        if not (isinstance(messages, list) and len(messages) > 1 and messages[-1].get("role") == "assistant"
                and isinstance(messages[-1].get("content"), str)):
            sys.exit(f'{path}:{number}: the row is not {{"messages": [...]}} with a request and an assistant\'s answer at its end')
    return [row for _, row in rows]


def write(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def shown(rows):
    """A few rows, evenly apart."""
    return rows[:: max(1, len(rows) // SHOWN)][:SHOWN]


def split(path, out):
    rows = rows_of(path)
    if len(rows) < 2:
        sys.exit(f"{path}: has {len(rows)} rows; one to learn and one to hold out are the least")
    every = max(10, -(-len(rows) // HELD_OUT)) if len(rows) >= 10 else len(rows)
    write(os.path.join(out, "train.jsonl"), [row for i, row in enumerate(rows) if (i + 1) % every])
    write(os.path.join(out, "heldout.jsonl"), rows[every - 1 :: every])


def ask(path, out):
    requests = [{**row, "messages": row["messages"][:-1]} for row in rows_of(path)]
    write(os.path.join(out, "prompts.jsonl"), requests)
    write(os.path.join(out, "shown.jsonl"), shown(requests))


def answers(out, name):
    return [row["text"] for _, row in read(os.path.join(out, name))]


def as_lines(label, text):
    """At most three lines of a text."""
    width = 108
    lines = textwrap.wrap(" ".join(text.split()) or "(nothing)", width)
    if len(lines) > 3:
        lines = lines[:2] + [lines[2][: width - 4] + " ..."]
    return "\n".join(f"  {label if i == 0 else '':10}{line}" for i, line in enumerate(lines))


def show(path, out):
    bold, green, plain = ("\033[1m", "\033[32m", "\033[0m") if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ("", "", "")
    rows = rows_of(path)
    after = shown(answers(out, "after.jsonl"))
    for i, (row, old, new) in enumerate(zip(shown(rows), answers(out, "before.jsonl"), after)):
        request, expected = row["messages"][-2].get("content"), row["messages"][-1]["content"]
        request = request if isinstance(request, str) else json.dumps(request, ensure_ascii=False)
        print("\n" if i else "", bold, as_lines("request", request), plain, "\n", as_lines("before", old), sep="")
        print(as_lines("after", new), f"{green}  (as expected){plain}" if new == expected else "", sep="")
        if new != expected:
            print(as_lines("expected", expected))


def exact(path, out):
    expected = [row["messages"][-1]["content"] for row in rows_of(path)]
    print(f"{sum(map(str.__eq__, expected, answers(out, 'after.jsonl')))}/{len(expected)}")


if __name__ == "__main__":
    verbs = {f.__name__: f for f in (split, ask, show, exact)}
    if len(sys.argv) != 4 or sys.argv[1] not in verbs:
        sys.exit(__doc__)
    verbs[sys.argv[1]](*sys.argv[2:])
