#!/bin/sh
# loss_by_format.sh - what each format of a quantised base costs: the loss of the quickstart's base
# model on reading of the kind it was trained on (another seed), its linears and experts quantised.
#   sh tests/perf/loss_by_format.sh [build/moesmith] [ROWS]
set -eu
cd "$(dirname "$0")/../.."
program=${1:-build/moesmith}
rows=${2:-4000}
base=configs/quickstart/model
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 train/quickstart/make_data.py --seed 77 --pretrain "$dir/reading" --rows "$rows" > /dev/null

# field FILE KEY...: a value of the JSON object that is the last line of a file.
field() { python3 -c 'import json, sys
v = json.loads(open(sys.argv[1]).read().splitlines()[-1])
for key in sys.argv[2:]: v = v[key]
print(v)' "$@"; }
loss_of() {
    "$program" eval --base_model "$1" --datasets "$dir/reading/text.jsonl" --datasets.0.type text \
        --compute f32 --json > "$dir/eval.json" 2> "$dir/log" || { cat "$dir/log" >&2; exit 1; }
    field "$dir/eval.json" loss
}

plain=$(loss_of $base)
printf '%-10s %8s %14s %8s %10s\n' format bits 'relative error' loss increase
printf '%-10s %8s %14s %8.4f %10s\n' none 16 0 "$plain" -
for format in int8 int4_g32 tq4_b64 nf4 tq4 mxfp4; do
    "$program" quantize --base_model $base --base_quantization $format --output "$dir/$format.h5" \
        --json > "$dir/quantize.json" 2> "$dir/log" || { cat "$dir/log" >&2; exit 1; }
    loss=$(loss_of "$dir/$format.h5")
    awk -v f=$format -v b="$(field "$dir/quantize.json" kinds experts bits_per_weight)" \
        -v e="$(field "$dir/quantize.json" kinds experts relative_mse)" \
        -v l="$loss" -v p="$plain" \
        'BEGIN { printf "%-10s %8.3f %14.5f %8.4f %10.4f\n", f, b, e, l, l - p }'
    rm "$dir/$format.h5"
done
