#!/bin/sh
# test_gguf_verbs.sh - every verb on a base that is a GGUF file: with its own tokenizer and chat
# template, quantised anew, merged into a checkpoint, and refused where it is not whole.
# MOESMITH names the program, TOOL tests/tool.c; run from the repository root.
: "${MOESMITH:=build/moesmith}" "${TOOL:=$(dirname "$MOESMITH")/tests/tool}"
[ -x "$MOESMITH" ] && [ -x "$TOOL" ] || { echo "no program to test: $MOESMITH, $TOOL"; exit 77; }

tmp=$(mktemp -d "${TMPDIR:-/tmp}/moesmith-gguf.XXXXXX") || exit 2
trap 'rm -rf "$tmp"' EXIT
failed=0
cp tests/golden/models/gguf-gemma3/model.gguf "$tmp/text.gguf" # has a tokenizer
cp tests/golden/models/gguf-moe/model.gguf "$tmp/moe.gguf"     # has experts
moe_rows=tests/golden/models/gguf-moe/batch.jsonl
printf '%s\n' '{"messages": [{"role": "user", "content": "hi there"}, {"role": "assistant", "content": "the sand is hot."}]}' \
    '{"messages": [{"role": "user", "content": "no"}, {"role": "assistant", "content": "it is."}]}' > "$tmp/chat.jsonl"
chat="--datasets $tmp/chat.jsonl --datasets.0.type chat_template --compute f32"
ids="--datasets $moe_rows --datasets.0.type tokens --compute f32"

wrong() {
    echo "WRONG: $case: $*"
    sed 's/^/    | /' "$tmp/err"
    failed=$((failed + 1))
}
works() {
    "$MOESMITH" "$@" > "$tmp/out" 2> "$tmp/err" || wrong "exit status $?: $*"
}
# refuses STATUS PATTERN ARGUMENT...
refuses() {
    want=$1 pattern=$2
    shift 2
    "$MOESMITH" "$@" > "$tmp/out" 2> "$tmp/err"
    status=$?
    [ $status = "$want" ] || wrong "exit status $status, not $want"
    tail -n 1 "$tmp/err" | grep '^moesmith: ' | grep -Eq "$pattern" || wrong "does not say: $pattern"
    [ "$(wc -l < "$tmp/err")" -le 6 ] || wrong "more than 6 lines on standard error"
}
is() { [ "$1" = "$2" ] || wrong "is \"$1\", not \"$2\""; }
loss_of() { # MODEL ARGUMENT... - six digits of the loss into $loss
    works eval --base_model "$@" --json
    loss=$("$TOOL" json loss < "$tmp/out" | cut -c 1-7)
}

case='its own tokenizer and template'
works preprocess --base_model "$tmp/text.gguf" $chat --debug
grep -q '<bos>|<turn>' "$tmp/out" || wrong "not as its template writes"
grep -q '\[th\]\[e\]\[·\]\[s\]' "$tmp/out" || wrong "other pieces"
works generate --base_model "$tmp/text.gguf" --prompt 'hi there' --max_new_tokens 4
cp "$tmp/text.gguf" "$tmp/sha256-0123" # a name that says nothing
works generate --base_model "$tmp/sha256-0123" --prompt 'hi there' --max_new_tokens 4
case='training and what becomes of it'
works train --base_model "$tmp/text.gguf" $chat --max_steps 4 --learning_rate 0.01 --output_dir "$tmp/a"
loss_of "$tmp/text.gguf" $chat
before=$loss
loss_of "$tmp/text.gguf" $chat --lora_model_dir "$tmp/a"
trained=$loss
[ "$before" != "$trained" ] || wrong "the adapter does nothing"
works generate --base_model "$tmp/text.gguf" --lora_model_dir "$tmp/a" --prompt 'hi' --max_new_tokens 4
works export --base_model "$tmp/text.gguf" --lora_model_dir "$tmp/a" --format merged --save_dtype f32 --output "$tmp/merged"
is "$(cd "$tmp/merged" && echo *)" \
    'chat_template.jinja config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json'
loss_of "$tmp/merged" $chat
is "$loss" "$trained"
case='full training of blocks'
refuses 2 'are quantised; set adapter: lora' train --base_model "$tmp/moe.gguf" $ids --adapter none --max_steps 1 --output_dir "$tmp/f"
case='quantize'
works quantize --base_model "$tmp/text.gguf" --base_quantization int8 --output "$tmp/text.h5"
loss_of "$tmp/text.h5" $chat
near=$loss
case='the same at the first use'
works eval --base_model "$tmp/text.gguf" $chat --base_quantization int8
[ -f "$tmp/text.gguf.moesmith-int8.h5" ] || wrong "no file beside the model"
loss_of "$tmp/text.gguf" $chat --base_quantization int8
is "$loss" "$near"
case='blocks into a base file as they are'
loss_of "$tmp/moe.gguf" $ids
before=$loss
works quantize --base_model "$tmp/moe.gguf" --base_quantization.embeddings bf16 --output "$tmp/moe.h5"
grep -q 'q4_0, q8_0' "$tmp/err" || wrong "experts are not as they were"
loss_of "$tmp/moe.h5" $ids
is "$(echo "$loss" | cut -c 1-4)" "$(echo "$before" | cut -c 1-4)"
works train --base_model "$tmp/moe.h5" $ids --max_steps 2 --router.train lora --output_dir "$tmp/m"
case='experts as another format'
works train --base_model "$tmp/moe.gguf" $ids --base_quantization.experts nf4 --max_steps 2 --output_dir "$tmp/n"
case='the other verbs'
works logits --base_model "$tmp/moe.gguf" $ids --output "$tmp/l.h5"
works routes --base_model "$tmp/moe.gguf" $ids --output "$tmp/r.h5"
works estimate --base_model "$tmp/moe.gguf" --sequence_len 16 --json
"$TOOL" json peak_memory_bytes < "$tmp/out" > /dev/null || wrong "the last line is no JSON"
works init --base_model "$tmp/moe.gguf" --output "$tmp/new"
works eval --base_model "$tmp/new" $ids
case='files that are not whole'
head -c 3000 "$tmp/moe.gguf" > "$tmp/short.gguf"
refuses 1 'short.gguf.*(end|middle)' eval --base_model "$tmp/short.gguf" $ids
head -c 100000 "$tmp/moe.gguf" > "$tmp/short.gguf"
refuses 1 'short.gguf.*ends behind' eval --base_model "$tmp/short.gguf" $ids
echo no > "$tmp/short.gguf"
refuses 1 'short.gguf is no GGUF file' eval --base_model "$tmp/short.gguf" $ids
refuses 1 'none.gguf' eval --base_model "$tmp/none.gguf" $ids
refuses 1 'tokenizer' eval --base_model "$tmp/moe.gguf" $chat

[ $failed = 0 ] && echo "all as it should be"
exit $((failed > 0))
