#!/bin/sh
# test_estimate.sh - what `estimate` says a run will need against what the run then took; the line
# that train prints; and the recipes in configs/, each with the figure in its comment.
# MOESMITH names the program, TOOL tests/tool.c; run from the repository root.
: "${MOESMITH:=build/moesmith}" "${TOOL:=build/tests/tool}"
[ -x "$MOESMITH" ] && [ -x "$TOOL" ] || { echo "no program to test: $MOESMITH, $TOOL"; exit 77; }

golden=tests/golden/models
tmp=$(mktemp -d "${TMPDIR:-/tmp}/moesmith-estimate.XXXXXX") || exit 2
trap 'rm -rf "$tmp"' EXIT
failed=0
# A sanitizer's own memory is in nobody's estimate.
sanitized=$(grep -q __asan_init "$MOESMITH" && echo yes)

wrong() { # wrong WHAT...
    echo "WRONG: $*"
    sed 's/^/    | /' "$tmp/err"
    failed=$((failed + 1))
}
field() { "$TOOL" json "$1" < "$2"; } # field KEY FILE

# within SHARE A B - whether A is within so much of B
within() { awk -v s="$1" -v a="$2" -v b="$3" 'BEGIN { d = a / b - 1; exit !(d <= s && -d <= s) }'; }

# foretells NAME ARGUMENT... - estimate and two steps of train with these settings agree to 5 %
foretells() {
    name=$1
    shift
    set -- --datasets.0.type tokens --max_steps 2 --json "$@"
    rm -rf "$tmp/run"
    "$MOESMITH" estimate "$@" > "$tmp/said" 2> "$tmp/err" || { wrong "$name: estimate failed"; return; }
    "$MOESMITH" train --output_dir "$tmp/run" "$@" > "$tmp/took" 2> "$tmp/err" ||
        { wrong "$name: train failed"; return; }
    said=$(field peak_memory_bytes "$tmp/said") took=$(field peak_memory_bytes "$tmp/took")
    told=$(sed -n 's/^memory: .*about \([0-9.]*\) MiB in all$/\1/p' "$tmp/err" | awk '{ printf "%.0f", $1 * 1048576 }')
    [ -n "$told" ] || { wrong "$name: train foretells nothing"; return; }
    [ -n "$sanitized" ] && return
    echo "$name" "$said" "$took" "$told" |
        awk '{ printf "%-24s foretold %7.1f MiB, took %7.1f MiB (%+.1f %%)\n", $1, $2/1048576, $3/1048576, 100*($2/$3-1) }'
    within 0.05 "$said" "$took" || wrong "$name: foretold $said bytes, took $took"
    # the same function in another process: apart by what the system shares out, and rounding
    within 0.05 "$told" "$said" || wrong "$name: train says $told bytes, estimate $said"
}

# ---- models large enough for every part to count ----

# config LAYERS VOCABULARY MORE - a config.json of Gemma 4's form
config() {
    cat << END
{"model_type": "gemma4_text", "dtype": "float32", "hidden_size": 256, "num_hidden_layers": 3,
 "layer_types": ["sliding_attention", "sliding_attention", "full_attention"], "head_dim": 64,
 "global_head_dim": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
 "num_global_key_value_heads": 1, "attention_k_eq_v": true, "sliding_window": 128,
 "vocab_size": 8192, "vocab_size_per_layer_input": 8192, "final_logit_softcapping": 30.0, $1}
END
}
model() { # model NAME CONFIG...
    name=$1
    shift
    config "$*" > "$tmp/$name.json"
    "$MOESMITH" init --base_model "$tmp/$name.json" --output "$tmp/$name" 2> "$tmp/err" || wrong "init $name"
}
# rows N LENGTH - of tokens out of the whole vocabulary, lengths from half of LENGTH on
rows() {
    awk -v n="$1" -v most="$2" 'BEGIN {
        x = 1
        for (i = 0; i < n; i++) {
            len = most - i * most / (2 * n)
            printf "{\"input_ids\": ["
            for (k = 0; k + 1 < len; k++) { x = (x * 16807) % 2147483647; printf "%s%d", k ? ", " : "", x % 8192 }
            print "]}"
        }
    }'
}
model experts '"hidden_size_per_layer_input": 0, "enable_moe_block": true, "num_experts": 32,
    "top_k_experts": 4, "moe_intermediate_size": 128, "intermediate_size": 512'
# A table so wide that each of its packed panels is many pages.
config '"hidden_size_per_layer_input": 2048, "intermediate_size": 256, "tie_word_embeddings": false' > "$tmp/wide.json"
"$MOESMITH" init --base_model "$tmp/wide.json" --base_quantization.embeddings int8 --output "$tmp/wide.h5" \
    2> "$tmp/err" || wrong "init wide"
model embeddings '"hidden_size_per_layer_input": 64, "intermediate_size": 1024, "tie_word_embeddings": false'
rows 6 96 > "$tmp/short.jsonl"
rows 3 700 > "$tmp/long.jsonl"
rows 2 24 > "$tmp/few.jsonl"

foretells tiny-f32 --base_model $golden/moe/model --datasets $golden/moe/batch.jsonl --compute f32
foretells tiny-full-bf16 --base_model $golden/dense/model --datasets $golden/dense/batch.jsonl --adapter none
foretells short-f32 --base_model "$tmp/experts" --datasets "$tmp/short.jsonl" --compute f32 --router.train lora
foretells long-bf16 --base_model "$tmp/experts" --datasets "$tmp/long.jsonl"
foretells kept-f32 --base_model "$tmp/experts" --datasets "$tmp/long.jsonl" --compute f32 \
    --gradient_checkpointing false --micro_batch_size 2
foretells full-f32 --base_model "$tmp/experts" --datasets "$tmp/short.jsonl" --compute f32 --adapter none
foretells saving --base_model "$tmp/experts" --datasets "$tmp/short.jsonl" --save_steps 1
foretells looked-up --base_model "$tmp/embeddings" --datasets "$tmp/short.jsonl" --val_set_size 2
foretells wide-table --base_model "$tmp/wide.h5" --datasets "$tmp/few.jsonl"
set -- --base_quantization nf4 --base_quantization.experts tq4
"$MOESMITH" quantize --base_model "$tmp/experts" --output "$tmp/base.h5" "$@" 2> "$tmp/err" || wrong "quantize"
foretells quantised --base_model "$tmp/base.h5" --datasets "$tmp/long.jsonl"
"$MOESMITH" estimate --base_model "$tmp/base.h5" --json > "$tmp/file" 2> "$tmp/err" || wrong "estimate of base.h5"
"$MOESMITH" estimate --base_model "$tmp/experts" "$@" --json > "$tmp/made" 2> "$tmp/err" || wrong "estimate of one to be made"
# Nothing to quantise: the checkpoint itself is opened, and no base.h5 is made.
mkdir "$tmp/bnb4"
model dense '"hidden_size_per_layer_input": 0, "intermediate_size": 8192'
cp "$tmp/dense/config.json" "$tmp/bnb4"
"$TOOL" bnb4 "$tmp/dense/model.safetensors" "$tmp/bnb4/model.safetensors"
foretells bnb-as-it-is --base_model "$tmp/bnb4" --datasets "$tmp/short.jsonl" --base_quantization nf4
[ "$(field disk "$tmp/said" | tr -d ' ' | sed 's/.*"base":\([0-9]*\).*/\1/')" = 0 ] ||
    wrong "foretells a base.h5 that is not made: $(field disk "$tmp/said")"
[ -z "$(find "$tmp/bnb4" -name '*.h5')" ] || wrong "made a base.h5 that changes nothing"
within 0.001 "$(field base_bytes "$tmp/made")" "$(field base_bytes "$tmp/file")" || wrong "base.h5 has another size than foretold"

# The peak is the run's own: not that of whoever started it, nor of its life before it started anew.
large='BEGIN { s = "x"; while (length(s) < 60000000) s = s s; exit system(ENVIRON["RUN"]) }'
rm -rf "$tmp/run"
RUN="$MOESMITH train --base_model $golden/moe/model --datasets $golden/moe/batch.jsonl --datasets.0.type tokens \
    --max_steps 1 --json --output_dir $tmp/run" awk "$large" > "$tmp/took" 2> "$tmp/err" || wrong "train below a large process"
[ -n "$sanitized" ] || [ "$(field peak_memory_bytes "$tmp/took")" -lt 50000000 ] || wrong "the peak of another process: $(cat "$tmp/took")"

# ---- a machine that is too small ----

# small_machine ARGUMENT... - the program where a process may have 60 MB; status 77: no group to be had
small_machine() {
    group=
    for file in memory/memory.limit_in_bytes memory.max; do
        at=/sys/fs/cgroup/${file%memory*}moesmith-test-$$
        mkdir "$at" 2> /dev/null || continue
        if [ -e "$at/cgroup.procs" ] && echo 60000000 2> /dev/null > "$at/${file##*/}"; then group=$at && break; fi
        rmdir "$at"
    done
    [ -n "$group" ] || return 77
    sh -c 'echo $$ > "$0/cgroup.procs" && exec "$@"' "$group" "$MOESMITH" "$@"
    got=$?
    rmdir "$group"
    return $got
}
set -- --base_model "$tmp/experts" --datasets "$tmp/few.jsonl" --datasets.0.type tokens --lora_r 64 --max_steps 1 --json
if [ -z "$sanitized" ]; then
    "$MOESMITH" estimate "$@" > "$tmp/said" 2> "$tmp/err" || wrong "estimate of a large adapter"
    [ "$(field fits "$tmp/said")" = true ] || wrong "does not fit: $(cat "$tmp/said")"
    rm -rf "$tmp/run"
    small_machine train "$@" --output_dir "$tmp/run" > "$tmp/took" 2> "$tmp/err"
    case $? in
    1) grep -q '^moesmith: the run needs about .* MiB beside the mapped base.* there are 57.2 MiB' "$tmp/err" || wrong "says something else"
       [ ! -e "$tmp/run" ] || wrong "left an output_dir"
       small_machine estimate "$@" > "$tmp/said" 2> "$tmp/err" || wrong "estimate on a small machine"
       [ "$(field fits "$tmp/said")" = false ] || wrong "fits: $(cat "$tmp/said")" ;;
    77) echo "skipped: no control group for a small machine" ;;
    *) wrong "a run that cannot fit is not refused" ;;
    esac
fi

# ---- a config.json alone ----

"$MOESMITH" estimate --base_model "$tmp/experts.json" --sequence_len 512 --json > "$tmp/said" 2> "$tmp/err" ||
    wrong "estimate of a config.json alone"
for key in base_bytes trainable_bytes step_bytes other_bytes peak_memory_bytes disk_bytes seconds_per_token; do
    [ -n "$(field $key "$tmp/said")" ] || wrong "no $key in the result"
done
awk '/^(memory|disk|parameters|work|time) /{ n++ } END { exit n != 5 }' "$tmp/said" || wrong "not the table"

# Times as people read them, not 6e-06 hours.
"$MOESMITH" estimate --base_model $golden/moe/model --datasets $golden/moe/batch.jsonl > "$tmp/said" 2> "$tmp/err" ||
    wrong "estimate of a small run"
grep -Eq '^the run .* tokens, about [0-9.]+ (us|ms|s)$' "$tmp/said" || wrong "the time of a small run: $(cat "$tmp/said")"
grep -Eq '^memory .* base [0-9.]+ KiB .* = [0-9.]+ MiB$' "$tmp/said" || wrong "the sizes of a small run: $(cat "$tmp/said")"
[ ! -s "$tmp/err" ] || wrong "something beside the table"

# ---- recipes ----

shapes=${MOESMITH_ORACLE:-../shared/oracle}/shapes
# recipe NAME MODEL SHAPES - works on a small model of its kind; on its own, as its comment says
recipe() {
    "$MOESMITH" estimate "configs/$1.yaml" --base_model "$golden/$2/model" --json > "$tmp/said" 2> "$tmp/err" ||
        wrong "configs/$1.yaml on $2"
    [ -d "$shapes/$3" ] && [ -z "$sanitized" ] || { echo "skipped: configs/$1.yaml on its own shapes"; return; }
    "$MOESMITH" estimate "configs/$1.yaml" --base_model "$shapes/$3" --json > "$tmp/said" 2> "$tmp/err" ||
        wrong "configs/$1.yaml"
    said=$(field peak_memory_bytes "$tmp/said")
    [ "$(field streams_base "$tmp/said")" = false ] || { echo "skipped: no memory for configs/$1.yaml"; return; }
    noted=$(sed -n 's/^# .*memory .* = \([0-9.]*\) GiB$/\1/p' "configs/$1.yaml")
    within 0.03 "$said" "$(awk -v g="$noted" 'BEGIN { printf "%.0f", g * 1073741824 }')" ||
        wrong "configs/$1.yaml notes $noted GiB, estimate says $said bytes"
}
recipe gemma4-26b-a4b moe 26b-a4b
[ -n "$sanitized" ] || [ ! -d "$shapes" ] || [ "$said" -le 21474836480 ] || wrong "26B-A4B needs more than 20 GiB: $said"
recipe gemma4-e4b ple e4b
recipe gemma4-31b dense 31b

[ $failed = 0 ] && echo "estimates hold"
exit $((failed > 0))
