#!/bin/sh
# test_cli.sh - the program as its users meet it: exit statuses, one clear sentence for each thing
# that is wrong with its input, nothing half-written, runs that are stopped or killed and go on.
# MOESMITH names the program, TOOL tests/tool.c; run from the repository root.
: "${MOESMITH:=build/moesmith}" "${TOOL:=build/tests/tool}"
[ -x "$MOESMITH" ] && [ -x "$TOOL" ] || { echo "no program to test: $MOESMITH, $TOOL"; exit 77; }

golden=tests/golden/models/moe
model=$golden/model
rows=$golden/batch.jsonl
tmp=$(mktemp -d "${TMPDIR:-/tmp}/moesmith-cli.XXXXXX") || exit 2
trap 'rm -rf "$tmp"' EXIT
failed=0
checks=0

wrong() {
    echo "WRONG: $case: $*"
    sed 's/^/    | /' "$tmp/err"
    failed=$((failed + 1))
}

# run ARGUMENT... - the program; its status into $status, what it said into $tmp/out and $tmp/err
run() {
    checks=$((checks + 1))
    "$MOESMITH" "$@" > "$tmp/out" 2> "$tmp/err"
    status=$?
}

# judged STATUS PATTERN - whether the program that just ran gave up as it should
judged() {
    [ "$status" = "$1" ] || { wrong "exit status $status, not $1"; return; }
    [ "$(grep -c '^moesmith: ' "$tmp/err")" = 1 ] || wrong "not one sentence"
    tail -n 1 "$tmp/err" | grep '^moesmith: ' | grep -Eq "$2" || wrong "does not say: $2"
    ! grep -Eq 'internal error|Sanitizer|runtime error' "$tmp/err" || wrong "an error of the program's own"
    [ -z "$(find "$tmp" -name '*.partial*')" ] || wrong "left $(find "$tmp" -name '*.partial*')"
}

# refuses STATUS PATTERN ARGUMENT... - wrong input: one sentence, and little beside it
refuses() {
    want=$1 pattern=$2
    shift 2
    run "$@"
    judged "$want" "$pattern"
    [ "$(wc -l < "$tmp/err")" -le 6 ] || wrong "more than 6 lines on standard error"
}

# works ARGUMENT...
works() {
    run "$@"
    [ "$status" = 0 ] || wrong "exit status $status"
}

is() { [ "$1" = "$2" ] || wrong "is \"$1\", not \"$2\""; }
absent() { [ ! -e "$1" ] || wrong "left $1"; }

# train, logits ... of the golden model, with what follows
with() {
    verb=$1
    shift
    echo "$verb" --base_model "$model" --datasets "$rows" --datasets.0.type tokens --compute f32 "$@"
}

# ---- usage ----

case='unknown verb'
refuses 2 'no verb "trian".*train' trian
case='no verb'
refuses 2 'no verb given'
case='missing config file'
refuses 2 'nowhere.yaml' train "$tmp/nowhere.yaml"
case='unknown key in a file'
printf 'base_model: %s\nlearning_rte: 0.1\n' "$model" > "$tmp/bad.yaml"
refuses 2 'bad.yaml:2.*learning_rte.*learning_rate' train "$tmp/bad.yaml"
case='unknown flag'
refuses 2 'lora_rnk.*lora_rank' train --lora_rnk 3
case='wrong type'
refuses 2 'lora_r .*many.*whole number' train --lora_r many
case='not YAML'
printf 'base_model: [a\nb: }\n' > "$tmp/bad.yaml"
refuses 2 'bad.yaml' train "$tmp/bad.yaml"
case='a key it cannot do without'
refuses 2 'output_dir' $(with train)
case='a word that is none of the choices'
refuses 2 'lr_scheduler.*cosine' $(with train --lr_scheduler cosin --output_dir "$tmp/o")
case='keys that exclude each other'
refuses 2 'lora_dropout.*lora_target_parameters' $(with train --lora_dropout 0.1 --output_dir "$tmp/o")
refuses 2 'lora_target_parameters.*take no dropout' $(with train --lora_dropout 0.1 --lora_target_parameters experts.down_proj --output_dir "$tmp/o")
case='generate without a prompt, or with two'
refuses 2 'needs --prompt TEXT or --prompts' generate --base_model "$model"
refuses 2 'prompt and prompts' generate --base_model "$model" --prompt a --prompts "$rows"
case='help'
works --help
grep -q 'gradient_checkpointing' "$tmp/out" && grep -q '  train ' "$tmp/out" || wrong "says too little"
case='help of one verb'
works export --help
grep -q '^usage: moesmith export ' "$tmp/out" && grep -q '^needs: base_model format output$' "$tmp/out" || wrong "says nothing of export"
case='version'
works --version

# ---- checkpoints ----

# damaged - a fresh copy of the model in $tmp/m
damaged() {
    rm -rf "$tmp/m"
    cp -r "$model" "$tmp/m"
    chmod -R u+w "$tmp/m"
    st=$tmp/m/model.safetensors
}
# refuses_model PATTERN [VERB] - training on $tmp/m is refused, and output_dir is not made
refuses_model() {
    refuses 1 "$1" "${2:-train}" --base_model "$tmp/m" --datasets "$rows" --datasets.0.type tokens \
        --output_dir "$tmp/o" --output "$tmp/o.h5" --max_steps 1
    absent "$tmp/o"
    absent "$tmp/o.h5"
}

case='no such model'
rm -rf "$tmp/m"
refuses_model 'base_model.*is not a directory'
printf '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' > "$tmp/chat.jsonl"
refuses 1 'base_model: owner/name is not a directory' train --base_model owner/name --datasets "$tmp/chat.jsonl" --output_dir "$tmp/o"
case='a directory that holds no model'
mkdir "$tmp/m"
refuses_model 'base_model.*is not a directory with config.json'
refuses 1 'base_model.*is not a directory with config.json' train --base_model "$tmp/m" --datasets "$tmp/chat.jsonl" --output_dir "$tmp/o"
absent "$tmp/o"
case='no config.json'
damaged
rm "$tmp/m/config.json"
refuses_model 'config.json'
case='config.json cut short'
damaged
dd if="$model/config.json" of="$tmp/m/config.json" bs=1 count=100 2> /dev/null
refuses_model 'config.json'
case='another family'
damaged
sed 's/gemma4_text/llama/' "$model/config.json" > "$tmp/m/config.json"
refuses_model 'llama'
case='sizes that cannot be'
for edit in 's/"num_hidden_layers": 4/"num_hidden_layers": -4/' 's/"hidden_size": 20/"hidden_size": -20/' \
    's/"rms_norm_eps": [0-9e.-]*/"rms_norm_eps": -1/' 's/"hidden_size": 20/"hidden_size": 99999999999/' \
    's/"num_attention_heads": 4/"num_attention_heads": "four"/' 's/"top_k_experts": 2/"top_k_experts": 7/' \
    's/"num_key_value_heads": 2/"num_key_value_heads": 3/' 's/"head_dim": 6/"head_dim": 0/' \
    's/"vocab_size": 96/"vocab_size": 1000000000/' 's/"num_experts": 6/"num_experts": 0/'; do
    damaged
    sed "$edit" "$model/config.json" > "$tmp/m/config.json"
    refuses_model 'config.json'
done
case='no weights'
damaged
rm "$st"
refuses_model 'model.safetensors'
case='weights cut short'
for bytes in 0 7 100 5000 60000; do
    dd if="$model/model.safetensors" of="$st" bs=1 count=$bytes 2> /dev/null
    refuses_model 'model.safetensors'
done
case='a header that lies'
"$TOOL" lie "$model/model.safetensors" "$st"
refuses_model 'model.safetensors'
case='a missing shard'
damaged
mv "$st" "$tmp/m/model-00001-of-00002.safetensors"
printf '{"metadata":{},"weight_map":{"model.norm.weight":"model-00001-of-00002.safetensors","model.embed_tokens.weight":"model-00002-of-00002.safetensors"}}' \
    > "$tmp/m/model.safetensors.index.json"
refuses_model 'model-00002-of-00002.safetensors'
case='an index that leads out of the directory'
printf '{"weight_map":{"model.norm.weight":"../../etc/passwd"}}' > "$tmp/m/model.safetensors.index.json"
refuses_model 'index.json'
case='a missing tensor'
damaged
q=model.layers.2.self_attn.q_proj.weight
"$TOOL" drop "$model/model.safetensors" "$st" $q
refuses_model "$q is missing"
case='a tensor nobody reads'
"$TOOL" add "$model/model.safetensors" "$st" model.layers.2.extra.weight
refuses_model 'model.layers.2.extra.weight'
case='a tensor of another shape'
"$TOOL" turn "$model/model.safetensors" "$st" $q
refuses_model "$q has shape"
case='a NaN in the weights, merged'
"$TOOL" nan "$model/model.safetensors" "$st" $q
for format in merged gguf; do
    refuses 1 "$q holds NaN at position 3;" export --base_model "$tmp/m" --format $format --output "$tmp/nan"
    absent "$tmp/nan"
done
case='a NaN in the weights'
"$TOOL" nan "$model/model.safetensors" "$st" $q
refuses 1 "$q holds NaN at position 3;" eval --base_model "$tmp/m" --datasets "$rows"
refuses 1 "$q holds NaN" logits --base_model "$tmp/m" --datasets "$rows" --output "$tmp/o.h5"
absent "$tmp/o.h5"
refuses 1 "$q holds NaN" train --base_model "$tmp/m" --datasets "$rows" --max_steps 2 --output_dir "$tmp/o"
rm -rf "$tmp/o"
printf '{"input_ids": [2, 3, 4]}\n' > "$tmp/prompts.jsonl"
refuses 1 "$q holds NaN" generate --base_model "$tmp/m" --prompts "$tmp/prompts.jsonl"

# ---- data ----

# refuses_row PATTERN ROW - the third line of a file
refuses_row() {
    head -n 2 "$rows" > "$tmp/bad.jsonl"
    printf "$2\n" >> "$tmp/bad.jsonl"
    refuses 1 "bad.jsonl:3.*$1" train --base_model "$model" --datasets "$tmp/bad.jsonl" \
        --datasets.0.type tokens --output_dir "$tmp/o"
    absent "$tmp/o"
}

case='a line that is not JSON'
refuses_row '' '{"input_ids": [2, 3'
case='a line that is no object'
refuses_row '' '[1, 2]'
case='a line that is not UTF-8'
refuses_row '' '{"input_ids": [2, 3], "text": "\377"}'
case='an id beyond the vocabulary'
refuses_row '96' '{"input_ids": [2, 96]}'
case='a negative id'
refuses_row '' '{"input_ids": [2, -1]}'
case='labels of another length'
refuses_row 'labels' '{"input_ids": [2, 3, 4], "labels": [3]}'
case='ids that are no numbers'
refuses_row 'input_ids' '{"input_ids": [2, "3"]}'
case='an empty dataset'
: > "$tmp/empty.jsonl"
refuses 1 'empty.jsonl: no row is there; expected one JSON object a line' \
    train --base_model "$model" --datasets "$tmp/empty.jsonl" --output_dir "$tmp/o"
absent "$tmp/o"
refuses 1 'empty.jsonl: no prompt is there' generate --base_model "$model" --prompts "$tmp/empty.jsonl"
case='a dataset that is one JSON array'
{ echo '['; sed 's/$/,/' "$rows"; echo '{}]'; } > "$tmp/array.json"
refuses 1 "array.json:1: a JSON array begins here.*jq -c '.\[\]' $tmp/array.json" \
    train --base_model "$model" --datasets "$tmp/array.json" --output_dir "$tmp/o"
absent "$tmp/o"
case='no such dataset'
refuses 1 'cannot open .*nowhere.jsonl: .*; check the path' train --base_model "$model" --datasets "$tmp/nowhere.jsonl" --output_dir "$tmp/o"
case='rows from a pipe, read twice where their type is auto'
mkfifo "$tmp/fifo"
cat "$rows" > "$tmp/fifo" &
refuses 1 '/dev/stdin is not a regular file' eval --base_model "$model" --datasets /dev/stdin < "$tmp/fifo"
wait $!
refuses 1 'fifo is not a regular file' eval --base_model "$model" --datasets "$tmp/fifo"
works eval --base_model "$model" --datasets /dev/stdin --compute f32 < "$rows"
case='nothing to measure'
printf '{"input_ids": [2, 3], "labels": [2, -100]}\n' > "$tmp/mute.jsonl"
refuses 1 'datasets: no token is supervised' $(with eval) --datasets "$tmp/mute.jsonl"

# ---- where to write ----

case='output_dir is a file'
: > "$tmp/file"
refuses 1 "$tmp/file" $(with train --max_steps 1 --output_dir "$tmp/file")
case='output_dir lies below a file'
refuses 1 "$tmp/file" $(with train --max_steps 1 --output_dir "$tmp/file/below")
case='output_dir is not empty'
mkdir "$tmp/full"
: > "$tmp/full/mine"
refuses 1 'not empty.*--overwrite' $(with train --max_steps 1 --output_dir "$tmp/full")
refuses 1 'not empty.*--overwrite' train --base_model "$tmp/nowhere" --datasets "$tmp/nowhere.jsonl" --output_dir "$tmp/full"
refuses 1 'not empty|exists' export --base_model "$model" --format merged --output "$tmp/full"
refuses 1 'exists' $(with logits --output "$tmp/full/mine")
[ -f "$tmp/full/mine" ] || wrong "the file there is gone"
case='output_dir holds what the run starts from'
cp -r "$model" "$tmp/base"
chmod -R u+w "$tmp/base"
refuses 1 'output_dir.*holds base_model' train --base_model "$tmp/base" --datasets "$rows" --output_dir "$tmp/base/." --overwrite
cmp -s "$model/model.safetensors" "$tmp/base/model.safetensors" || wrong "the base is gone"
rm -r "$tmp/base"
case='--overwrite leaves nothing of an older run'
works $(with train --adapter none --max_steps 2 --save_steps 1 --output_dir "$tmp/o")
: > "$tmp/o/mine"
works $(with train --max_steps 1 --output_dir "$tmp/o" --overwrite)
absent "$tmp/o/model.safetensors"
absent "$tmp/o/checkpoint-1"
is "$(grep -c step_seconds "$tmp/o/metrics.jsonl")" 1
[ -f "$tmp/o/mine" ] || wrong "the file there is gone"
case='auto on a finished run without checkpoints'
cp "$tmp/o/metrics.jsonl" "$tmp/kept"
refuses 1 'holds a finished run and no checkpoint.*--overwrite' $(with train --max_steps 1 --output_dir "$tmp/o" --resume_from_checkpoint auto)
cmp -s "$tmp/kept" "$tmp/o/metrics.jsonl" || wrong "changed metrics.jsonl"
rm -r "$tmp/o"
case='auto with nothing to go on from'
works $(with train --max_steps 1 --output_dir "$tmp/o" --resume_from_checkpoint auto)
grep -q "no checkpoint in $tmp/o: from the beginning" "$tmp/err" || wrong "does not say where it begins"
rm -r "$tmp/o"

case='folders that are not there yet'
works $(with logits --output "$tmp/new/l/l.h5")
works $(with routes --output "$tmp/new/r/r.h5")
works preprocess --base_model "$model" --datasets "$rows" --output "$tmp/new/p/p.jsonl"
printf '{"input_ids": [2, 3, 4]}\n' > "$tmp/prompts.jsonl"
works generate --base_model "$model" --prompts "$tmp/prompts.jsonl" --max_new_tokens 2 --output "$tmp/new/g/g.jsonl"
works quantize --base_model "$model" --base_quantization nf4 --output "$tmp/new/q/q.h5"
works init --base_model "$model" --output "$tmp/new/i/i"
works init --base_model "$model" --base_quantization nf4 --output "$tmp/new/h/h.h5"
works export --base_model "$model" --format merged --output "$tmp/new/m/m"
works export --base_model "$model" --format gguf --output "$tmp/new/f/f.gguf"
works $(with train --max_steps 1 --save_gradients "$tmp/new/s/s.safetensors" --output_dir "$tmp/new/t/t")
for file in l/l.h5 r/r.h5 p/p.jsonl g/g.jsonl q/q.h5 i/i/config.json h/h.h5 m/m/config.json f/f.gguf s/s.safetensors t/t/config.yaml; do
    [ -f "$tmp/new/$file" ] || wrong "no $file"
done
rm -r "$tmp/new"
case='places that cannot be written, before any work'
refuses 1 "output $tmp/new/ names a directory" $(with logits --output "$tmp/new/")
mkdir "$tmp/bare"
nothing="--base_model $tmp/nowhere --datasets $tmp/nowhere.jsonl --prompts $tmp/nowhere.jsonl"
for verb in logits routes generate 'export --format gguf' 'export --format gguf-lora --base_gguf a.gguf --lora_model_dir a'; do
    refuses 1 "bare: it is a directory, expected a regular file" $verb $nothing --output "$tmp/bare"
    refuses 1 "cannot write into $tmp/file: .*a part of the path is a file" $verb $nothing --output "$tmp/file/below/x"
done
for verb in 'quantize --base_quantization nf4' 'init --base_quantization nf4'; do
    refuses 1 "a part of the path is a file" $verb $nothing --output "$tmp/file/x.h5"
done
for verb in init 'export --format merged' 'export --format peft --lora_model_dir a' 'convert --format mlx --lora_model_dir a'; do
    refuses 1 "cannot write directory $tmp/file: it is a file" $verb $nothing --output "$tmp/file" --overwrite
    refuses 1 "a part of the path is a file" $verb $nothing --output "$tmp/file/below/x"
done
refuses 1 "cannot write into $tmp/file: .*a part of the path is a file" train $nothing --output_dir "$tmp/file/below"

# limited BLOCKS ARGUMENT... - the program on a disk that is full after so many blocks of 512 bytes
limited() {
    blocks=$1
    shift
    checks=$((checks + 1))
    (
        trap '' XFSZ
        ulimit -f "$blocks"
        exec "$MOESMITH" "$@" > "$tmp/out" 2> "$tmp/err"
    )
    status=$?
}

case='the disk is full: export'
limited 100 export --base_model "$model" --format merged --output "$tmp/merged"
judged 1 "$tmp/merged"
absent "$tmp/merged"
case='the disk is full: a GGUF file'
limited 100 export --base_model "$model" --format gguf --output "$tmp/full.gguf"
judged 1 'full.gguf'
absent "$tmp/full.gguf"
case='the disk is full: logits'
limited 20 $(with logits --output "$tmp/l.h5")
judged 1 'l.h5: .*; raise the limit on file sizes or choose a path on another disk'
absent "$tmp/l.h5"
case='the disk is full: gradients'
limited 20 $(with train --max_steps 1 --save_gradients "$tmp/g.safetensors" --output_dir "$tmp/o")
judged 1 'g.safetensors'
absent "$tmp/g.safetensors"
rm -rf "$tmp/o"
case='the disk is full: a checkpoint'
works $(with train --max_steps 4 --save_steps 2 --output_dir "$tmp/whole")
cp -r "$tmp/whole" "$tmp/o"
rm -r "$tmp/o/checkpoint-4" "$tmp/o/adapter_model.safetensors"
limited 20 $(with train --max_steps 4 --save_steps 2 --output_dir "$tmp/o" --resume_from_checkpoint auto)
judged 1 'adapter_model.safetensors|state.h5'
grep -q "^kept: $tmp/o/checkpoint-2, from which --resume_from_checkpoint auto goes on" "$tmp/err" || wrong "does not say what is kept"
absent "$tmp/o/checkpoint-4"
works $(with train --max_steps 4 --save_steps 2 --output_dir "$tmp/o" --resume_from_checkpoint auto)
cmp -s "$tmp/o/adapter_model.safetensors" "$tmp/whole/adapter_model.safetensors" || wrong "other values"
rm -rf "$tmp/o"
case='the result cannot be written'
mkdir -p "$tmp/o/adapter_model.safetensors/mine"
run $(with train --max_steps 3 --output_dir "$tmp/o" --resume_from_checkpoint auto)
judged 1 'adapter_model.safetensors'
grep -q "^kept: $tmp/o/checkpoint-3," "$tmp/err" || wrong "does not say what is kept"
"$TOOL" whole "$tmp/o/checkpoint-3/state.h5" 2> "$tmp/err" || wrong "nothing was kept"
rm -r "$tmp/o/adapter_model.safetensors"
works $(with train --max_steps 3 --output_dir "$tmp/o" --resume_from_checkpoint auto)
"$TOOL" whole "$tmp/o/adapter_model.safetensors" || wrong "no adapter"
rm -rf "$tmp/o"
case='a run that leaves the numbers'
# too_fast RATE PATTERN - a whole step changes every weight by about RATE
too_fast() {
    rm -rf "$tmp/o"
    run $(with train --adapter none --max_steps 3 --lr_scheduler constant --learning_rate "$1" --output_dir "$tmp/o")
    judged 1 "step 2: $2"
}
too_fast 1e18 'the result is not a number'
"$TOOL" whole "$tmp/o/checkpoint-1/state.h5" 2> "$tmp/err" || wrong "nothing was kept"
too_fast 1e39 '.*no numbers any more'
grep -q "^nothing is kept: $tmp/o holds no checkpoint" "$tmp/err" || wrong "does not say that nothing is kept"
absent "$tmp/o/checkpoint-1"
rm -rf "$tmp/o"
case='standard output is full'
if [ -w /dev/full ]; then
    "$MOESMITH" $(with eval --json) > /dev/full 2> "$tmp/err"
    status=$?
    judged 1 'standard output'
fi

# ---- adapters ----

works $(with train --max_steps 40 --learning_rate 0.01 --lora_r 3 --router.train lora --output_dir "$tmp/trained")
# spoilt [FROM] - a fresh copy of a trained adapter in $tmp/a
spoilt() {
    rm -rf "$tmp/a"
    mkdir "$tmp/a"
    from=${1:-$tmp/trained}
    cp "$from"/adapter_* "$tmp/a"
    chmod u+w "$tmp/a"/*
    ast=$tmp/a/adapter_model.safetensors
}
refuses_adapter() { refuses 1 "$1" $(with eval --lora_model_dir "$tmp/a"); }
edit_config() { sed "$1" "$from/adapter_config.json" > "$tmp/a/adapter_config.json"; }

case='an adapter as it should be'
spoilt
works $(with eval --lora_model_dir "$tmp/a" --json)
case='no such adapter'
rm -rf "$tmp/a"
refuses_adapter 'lora_model_dir'
case='no adapter_config.json'
spoilt
rm "$tmp/a/adapter_config.json"
refuses_adapter 'adapter_config.json'
case='no adapter_model.safetensors'
spoilt
rm "$ast"
refuses_adapter 'adapter_model.safetensors'
case='another rank'
spoilt
edit_config 's/"r": 3/"r": 4/'
refuses_adapter 'rank'
case='a rank that cannot be'
edit_config 's/"r": 3/"r": 0/'
refuses_adapter 'adapter_config.json'
case='an adapter of another model'
spoilt tests/golden/models/dense/adapter
refuses_adapter 'tensor'
case='an adapter of another shape'
spoilt
qa=base_model.model.$(echo $q | sed 's/weight/lora_A.weight/')
"$TOOL" turn "$tmp/trained/adapter_model.safetensors" "$ast" $qa
refuses_adapter "$qa has shape"
case='an adapter with a missing tensor'
"$TOOL" drop "$tmp/trained/adapter_model.safetensors" "$ast" $qa
refuses_adapter "$qa is missing"
case='an adapter with one tensor more'
"$TOOL" add "$tmp/trained/adapter_model.safetensors" "$ast" base_model.model.model.layers.0.more.lora_A.weight
refuses_adapter 'layers.0.more.lora_A.weight'
case='a NaN in an adapter'
"$TOOL" nan "$tmp/trained/adapter_model.safetensors" "$ast" $qa
refuses_adapter "$qa holds a NaN"
case='the transposed layout'
works $(with eval --lora_model_dir "$tmp/trained" --json)
loss=$("$TOOL" json loss < "$tmp/out")
"$TOOL" swap "$tmp/trained/adapter_model.safetensors" "$ast"
works $(with eval --lora_model_dir "$tmp/a" --json)
is "$("$TOOL" json loss < "$tmp/out")" "$loss"
case='the 3-D expert-major layout'
"$TOOL" experts3d "$tmp/trained/adapter_model.safetensors" "$ast"
refuses_adapter 'expert-major layout'
case='a per-expert layout that cannot be'
"$TOOL" per-expert "$tmp/trained/adapter_model.safetensors" "$ast"
refuses_adapter 'experts.0.down_proj.lora_A.weight has rank 18.*says 3'
case='columns of B in expert-major order'
"$TOOL" major "$tmp/trained/adapter_model.safetensors" "$ast"
refuses_adapter 'look expert-major.*lora_b_order'
works $(with eval --lora_model_dir "$tmp/a" --lora_b_order expert-major --json)
is "$("$TOOL" json loss < "$tmp/out")" "$loss"
refuses 2 'lora_b_order.*expert_fastest, expert_major' $(with eval --lora_model_dir "$tmp/a" --lora_b_order wrong)
echo '{"expert_lora_b_order": "expert_fastest"}' > "$tmp/a/moesmith.json"
works $(with eval --lora_model_dir "$tmp/a")
refuses 1 'lora_b_order expert_major contradicts' $(with eval --lora_model_dir "$tmp/a" --lora_b_order expert_major)
case='a DoRA adapter'
spoilt
edit_config 's/"use_dora": false/"use_dora": true/'
refuses_adapter 'DoRA'
case='not LoRA at all'
edit_config 's/"peft_type": "LORA"/"peft_type": "IA3"/'
refuses_adapter 'IA3'
case='a key that contradicts the adapter'
spoilt
refuses 1 'lora_r 5 contradicts' $(with train --lora_model_dir "$tmp/a" --lora_r 5 --output_dir "$tmp/o")
absent "$tmp/o"

# ---- going on ----

case='resuming another run'
again() { refuses 1 "$1" $(with train --max_steps 4 --save_steps 2 --output_dir "$tmp/whole" --resume_from_checkpoint auto) $2; }
cp "$tmp/whole/adapter_model.safetensors" "$tmp/kept"
head -n 4 "$rows" > "$tmp/other.jsonl"
again 'data is not what' "--datasets $tmp/other.jsonl"
again 'seed 42' '--seed 7'
again 'other tensors' '--lora_r 2'
again 'optimizer adamw' '--optimizer sgd'
again 'another rank or scale' '--lora_alpha 3'
again 'compute f32.*bf16' '--compute bf16'
again 'micro_batch_size x gradient_accumulation_steps = 1.*says 2' '--micro_batch_size 2'
again 'shuffle 1.*says 0' '--shuffle false'
"$TOOL" nan "$model/model.safetensors" "$tmp/nan.safetensors" $q
damaged
mv "$tmp/nan.safetensors" "$st"
again 'base_model is not what' "--base_model $tmp/m"
refuses 1 'not a checkpoint' $(with train --max_steps 4 --output_dir "$tmp/whole" --resume_from_checkpoint "$tmp/nowhere")
cmp -s "$tmp/kept" "$tmp/whole/adapter_model.safetensors" || wrong "changed what was there"
case='resuming with other settings'
cp -r "$tmp/whole" "$tmp/o"
works $(with train --max_steps 4 --save_steps 2 --output_dir "$tmp/o" --resume_from_checkpoint auto)
! grep -q 'from here on' "$tmp/err" || wrong "tells of changes where there are none"
works $(with train --max_steps 6 --save_steps 2 --output_dir "$tmp/o" --resume_from_checkpoint auto) --learning_rate 0.001
grep -q '^from here on: max_steps 6 (4 before), learning_rate 0.001 (0.0002 before)$' "$tmp/err" || wrong "does not say what is new"
rm -r "$tmp/o"
case='resuming from a damaged checkpoint'
cp -r "$tmp/whole" "$tmp/o"
dd if="$tmp/whole/checkpoint-4/state.h5" of="$tmp/o/checkpoint-4/state.h5" bs=1 count=3000 2> /dev/null
refuses 1 'state.h5' $(with train --max_steps 6 --output_dir "$tmp/o" --resume_from_checkpoint auto)
rm -rf "$tmp/o"

# The same run three times: whole, stopped by a signal, killed again and again.
steps=240
long="--max_steps $steps --save_steps 20 --save_total_limit 2 --learning_rate 0.005 --router.train lora"
same_end() { # whether $1 holds what the whole run wrote
    cmp -s "$1/adapter_model.safetensors" "$tmp/long/adapter_model.safetensors" || wrong "another adapter"
    "$TOOL" metrics "$1/metrics.jsonl" > "$tmp/a.metrics" || wrong "metrics.jsonl is torn"
    "$TOOL" metrics "$tmp/long/metrics.jsonl" | cmp -s - "$tmp/a.metrics" || wrong "other metrics"
}
case='the whole run'
works $(with train $long --output_dir "$tmp/long")
is "$(grep -c step_seconds "$tmp/long/metrics.jsonl")" $steps
is "$(echo "$tmp/long"/checkpoint-*)" "$tmp/long/checkpoint-220 $tmp/long/checkpoint-240"

# begun ARGUMENT... - a run in $tmp/o that is some steps on its way; its process into $pid
begun() {
    rm -rf "$tmp/o"
    checks=$((checks + 1))
    "$MOESMITH" $(with train "$@" --output_dir "$tmp/o") > "$tmp/out" 2> "$tmp/err" &
    pid=$!
    while ! grep -q '"step": 3,' "$tmp/o/metrics.jsonl" 2> /dev/null && kill -0 $pid 2> /dev/null; do sleep 0.01; done
}
for signal in TERM:143 INT:130; do
    case=SIG${signal%:*}
    begun $long
    kill -"${signal%:*}" $pid 2> /dev/null
    wait $pid
    is $? "${signal#*:}"
    grep -q 'resume_from_checkpoint auto' "$tmp/err" || wrong "does not say how to go on"
    set -- "$tmp/o"/checkpoint-*
    [ -f "$1/state.h5" ] || wrong "no checkpoint"
    absent "$tmp/o/adapter_model.safetensors"
    works $(with train $long --output_dir "$tmp/o" --resume_from_checkpoint auto)
    same_end "$tmp/o"
done
case='two runs in one directory'
begun --max_steps $steps
kill -STOP $pid # so that it is still there
for way in '--resume_from_checkpoint auto' --overwrite ''; do
    refuses 1 "another run is writing output_dir $tmp/o;" $(with train --max_steps $steps --output_dir "$tmp/o") $way
done
kill -KILL $pid
wait $pid 2> /dev/null
works $(with train --max_steps 4 --output_dir "$tmp/o" --overwrite)
case='a second signal'
begun --max_steps $steps
kill -STOP $pid # so that both are there when it goes on
kill -INT $pid
kill -TERM $pid
kill -CONT $pid
wait $pid
status=$?
[ $status = 130 ] || [ $status = 143 ] || wrong "exit status $status"
[ -z "$(find "$tmp/o" -name 'checkpoint-*')" ] || wrong "took the time for a checkpoint"
absent "$tmp/o/adapter_model.safetensors"

case='kill -9'
rm -rf "$tmp/o"
for pause in 0.05 0.11 0.23 0.17 0.31; do
    "$MOESMITH" $(with train $long --output_dir "$tmp/o" --resume_from_checkpoint auto) > "$tmp/out" 2> "$tmp/err" &
    pid=$!
    sleep $pause
    kill -9 $pid 2> /dev/null
    wait $pid 2> /dev/null
    for file in "$tmp/o"/checkpoint-*[0-9]/*.safetensors "$tmp/o"/checkpoint-*[0-9]/state.h5; do
        [ ! -e "$file" ] || "$TOOL" whole "$file" 2> "$tmp/err" || wrong "$file is not whole"
    done
done
works $(with train $long --output_dir "$tmp/o" --resume_from_checkpoint auto)
same_end "$tmp/o"
[ -z "$(find "$tmp/o" -name '*.partial*')" ] || wrong "left $(find "$tmp/o" -name '*.partial*')"

# ---- what works ----

case='eval --json'
works $(with eval --json)
loss=$("$TOOL" json loss < "$tmp/out") || wrong "the last line is no JSON"
works $(with eval --json --lora_model_dir "$tmp/trained")
[ "$loss" != "$("$TOOL" json loss < "$tmp/out")" ] || wrong "the adapter does nothing"
trained=$("$TOOL" json loss < "$tmp/out" | cut -c 1-7)
case='rows held out'
works $(with train --max_steps 4 --val_set_size 2 --eval_steps 2 --output_dir "$tmp/held")
grep -q '"eval_loss"' "$tmp/held/metrics.jsonl" || wrong "nothing was evaluated"
refuses 1 'val_set_size' $(with train --max_steps 4 --val_set_size 6 --output_dir "$tmp/none")
case='one step of a fresh adapter'
works $(with train --max_steps 1 --micro_batch_size 1 --gradient_accumulation_steps 1 --output_dir "$tmp/one" --json)
grep -q '; 1 step of up to 1 row$' "$tmp/err" || wrong "does not count in good English"
! grep -q '(lora_A)' "$tmp/out" "$tmp/err" || wrong "blames what cannot move yet"
grep -q 'lora_A aside' "$tmp/err" || wrong "does not say what has not moved yet"
! grep -o '"routing".*' "$tmp/one/metrics.jsonl" | grep -Eq '[.][0-9]{4}' || wrong "more than the three digits it has"
works $(with train --max_steps 2 --learning_rate 0.01 --warmup_steps 0 --output_dir "$tmp/one" --overwrite)
grep -q 'every tensor that learns has moved$' "$tmp/err" || wrong "does not say that all has moved"
case='logits'
works $(with logits --output "$tmp/l.h5" --json)
"$TOOL" json rows < "$tmp/out" > /dev/null || wrong "the last line is no JSON"
is "$("$TOOL" shape "$tmp/l.h5" /logits)" 'f32 61 96'
is "$("$TOOL" shape "$tmp/l.h5" /input_ids)" 'i32 61'
is "$("$TOOL" shape "$tmp/l.h5" /offsets)" 'i64 7'
works $(with logits --output "$tmp/l.h5" --overwrite --top_k 5)
is "$("$TOOL" shape "$tmp/l.h5" /topk_logits)" 'f32 61 5'
is "$("$TOOL" shape "$tmp/l.h5" /topk_ids)" 'i32 61 5'
case='routes'
works $(with routes --output "$tmp/r.h5" --json)
"$TOOL" json output < "$tmp/out" > /dev/null || wrong "the last line is no JSON"
for layer in 0 1 2 3; do
    is "$("$TOOL" shape "$tmp/r.h5" /layer.$layer/experts)" 'i32 61 2'
    is "$("$TOOL" shape "$tmp/r.h5" /layer.$layer/weights)" 'f32 61 2'
    is "$("$TOOL" shape "$tmp/r.h5" /layer.$layer/load)" 'i64 6'
done
case='generate'
printf '{"input_ids": [2, 3, 4]}\n{"input_ids": [2, 50]}\n' > "$tmp/prompts.jsonl"
ask="generate --base_model $model --prompts $tmp/prompts.jsonl --max_new_tokens 6 --compute f32"
works $ask --output "$tmp/before.jsonl"
works $ask --output "$tmp/after.jsonl" --lora_model_dir "$tmp/trained"
is "$(wc -l < "$tmp/before.jsonl" | tr -d ' ')" 2
cmp -s "$tmp/before.jsonl" "$tmp/after.jsonl" && wrong "the adapter does nothing"
works $ask --json
"$TOOL" json rows < "$tmp/out" > /dev/null || wrong "the last line is no JSON"
case='more new tokens than memory'
sed 's/"head_dim": 6/"head_dim": 6000/' "$model/config.json" > "$tmp/wide.json"
works init --base_model "$tmp/wide.json" --save_dtype bf16 --output "$tmp/wide"
refuses 1 'keys and values of 16777219 tokens would take .* TiB.*lower max_new_tokens' \
    generate --base_model "$tmp/wide" --prompts "$tmp/prompts.jsonl" --max_new_tokens 16777216 --output "$tmp/wide.jsonl"
rm -r "$tmp/wide"
case='a bad prompt late in the file'
printf '{"input_ids": [2, 96]}\n' >> "$tmp/prompts.jsonl"
refuses 1 'prompts.jsonl:3.*input_ids.1. is not a token id below 96' $ask --output "$tmp/late.jsonl"
absent "$tmp/late.jsonl"
case='export and back'
works export --base_model "$model" --lora_model_dir "$tmp/trained" --format peft --output "$tmp/peft" --json
"$TOOL" json output < "$tmp/out" > /dev/null || wrong "the last line is no JSON"
cmp -s "$tmp/peft/adapter_model.safetensors" "$tmp/trained/adapter_model.safetensors" || wrong "another adapter"
works export --base_model "$model" --lora_model_dir "$tmp/trained" --format merged --output "$tmp/merged"
works eval --base_model "$tmp/merged" --datasets "$rows" --datasets.0.type tokens --compute f32 --json
is "$("$TOOL" json loss < "$tmp/out" | cut -c 1-7)" "$trained"
case='GGUF files'
works export --base_model "$model" --format gguf --output "$tmp/base.gguf"
grep -q 'has no tokenizer' "$tmp/err" || wrong "does not say that there is no tokenizer"
[ "$(head -c 4 "$tmp/base.gguf")" = GGUF ] || wrong "not a GGUF file"
works export --base_model "$model" --format gguf --gguf_type q8_0 --output "$tmp/small.gguf"
grep -q 'no whole blocks of q8_0' "$tmp/err" || wrong "does not say what is not q8_0"
refuses 1 'exists' export --base_model "$model" --format gguf --output "$tmp/base.gguf"
refuses 2 'gguf_type.*q8_0' export --base_model "$model" --format gguf --gguf_type q9 --output "$tmp/e"
works export --base_model "$model" --lora_model_dir "$tmp/trained" --format gguf --gguf_type f32 --output "$tmp/whole.gguf"
works eval --base_model "$tmp/whole.gguf" --datasets "$rows" --datasets.0.type tokens --compute f32 --json
is "$("$TOOL" json loss < "$tmp/out" | cut -c 1-7)" "$trained"
works export --base_model "$model" --lora_model_dir "$tmp/trained" --format gguf-lora --base_gguf "$tmp/base.gguf" --output "$tmp/lora.gguf" --json
works export --base_model "$tmp/base.gguf" --lora_model_dir "$tmp/trained" --format gguf-lora --output "$tmp/same.gguf"
cmp -s "$tmp/lora.gguf" "$tmp/same.gguf" || wrong "the adapter depends on how its base is named"
refuses 2 'base_gguf' export --base_model "$model" --lora_model_dir "$tmp/trained" --format gguf-lora --output "$tmp/e"
refuses 2 'lora_model_dir' export --base_model "$model" --base_gguf "$tmp/base.gguf" --format gguf-lora --output "$tmp/e"
refuses 1 'holds the input' export --base_model "$model" --lora_model_dir "$tmp/trained" --format gguf-lora --base_gguf "$tmp/base.gguf" --output "$tmp/base.gguf" --overwrite true
cp "$tmp/whole.gguf" "$tmp/nan.gguf"
printf '\377%.0s' $(seq 64) | dd of="$tmp/nan.gguf" bs=1 seek=$(($(wc -c < "$tmp/nan.gguf") - 64)) conv=notrunc 2> /dev/null
for format in merged gguf; do
    refuses 1 'nan.gguf: tensor .* holds NaN at position' export --base_model "$tmp/nan.gguf" --format $format --output "$tmp/e"
    absent "$tmp/e"
done
head -c 3000 "$tmp/base.gguf" > "$tmp/torn.gguf"
refuses 1 'torn.gguf' export --base_model "$model" --lora_model_dir "$tmp/trained" --format gguf-lora --base_gguf "$tmp/torn.gguf" --output "$tmp/e"
absent "$tmp/e"
case='adapters for engines, and back'
on="--base_model $model"
for format in peft-per-expert mlx; do
    works export $on --lora_model_dir "$tmp/trained" --format $format --output "$tmp/$format" --json
    "$TOOL" json output < "$tmp/out" > /dev/null || wrong "the last line is no JSON"
    works eval $on --datasets "$rows" --datasets.0.type tokens --lora_model_dir "$tmp/$format" --compute f32 --json
    is "$("$TOOL" json loss < "$tmp/out" | cut -c 1-7)" "$trained"
    works convert $on --lora_model_dir "$tmp/trained" --format $format --output "$tmp/there"
    works convert $on --lora_model_dir "$tmp/there" --format peft --output "$tmp/back" --json
    is "$("$TOOL" json from < "$tmp/out")" "\"$format\""
    cmp -s "$tmp/back/adapter_model.safetensors" "$tmp/trained/adapter_model.safetensors" || wrong "another adapter by way of $format"
    works train $on --datasets "$rows" --datasets.0.type tokens --lora_model_dir "$tmp/there" --max_steps 1 --output_dir "$tmp/on"
    [ -f "$tmp/on/adapter_model.safetensors" ] || wrong "no adapter in PEFT's form"
    rm -r "$tmp/there" "$tmp/back" "$tmp/on"
done
case='llama.cpp'"'"'s adapter, and back'
works eval $on --datasets "$rows" --datasets.0.type tokens --lora_model_dir "$tmp/lora.gguf" --compute f32 --json
is "$("$TOOL" json loss < "$tmp/out" | cut -c 1-7)" "$trained"
works convert $on --lora_model_dir "$tmp/trained" --format gguf-lora --base_gguf "$tmp/base.gguf" --output "$tmp/there.gguf"
works convert $on --lora_model_dir "$tmp/there.gguf" --format peft --output "$tmp/back" --json
is "$("$TOOL" json from < "$tmp/out")" '"gguf-lora"'
works convert --base_model "$tmp/base.gguf" --lora_model_dir "$tmp/back" --format gguf-lora --output "$tmp/again.gguf"
cmp -s "$tmp/there.gguf" "$tmp/again.gguf" || wrong "another adapter by way of peft"
works train $on --datasets "$rows" --datasets.0.type tokens --lora_model_dir "$tmp/there.gguf" --max_steps 1 --output_dir "$tmp/on"
[ -f "$tmp/on/adapter_model.safetensors" ] || wrong "no adapter in PEFT's form"
rm -r "$tmp/back" "$tmp/on"
refuses 2 'base_gguf' convert $on --lora_model_dir "$tmp/trained" --format gguf-lora --output "$tmp/e"
refuses 1 'holds the input' convert $on --lora_model_dir "$tmp/there.gguf" --base_gguf "$tmp/base.gguf" --format gguf-lora --output "$tmp/there.gguf" --overwrite true
refuses 1 'general.type is "model"' eval $on --datasets "$rows" --datasets.0.type tokens --lora_model_dir "$tmp/base.gguf"
case='convert that cannot be'
refuses 2 'format: merged is no adapter' convert $on --lora_model_dir "$tmp/trained" --format merged --output "$tmp/e"
refuses 2 'convert needs lora_model_dir|lora_model_dir' convert $on --format mlx --output "$tmp/e"
refuses 1 'exists' convert $on --lora_model_dir "$tmp/trained" --format mlx --output "$tmp/peft"
refuses 1 'lora_b_order is about' convert $on --lora_model_dir "$tmp/mlx" --lora_b_order expert_major --format peft --output "$tmp/e"
absent "$tmp/e"
case='what a form cannot carry'
works $(with train --router.train per_expert_scale --max_steps 1 --learning_rate 0.1 --output_dir "$tmp/scales")
refuses 1 'per_expert_scale learned whole.*mlx cannot carry.*peft and merged can' export $on --lora_model_dir "$tmp/scales" --format mlx --output "$tmp/e"
absent "$tmp/e"
case='routers alone: PEFT has a word of its own for no modules'
works $(with train --lora_target_modules= --lora_target_parameters= --router.train full --max_steps 1 --learning_rate 0.1 --output_dir "$tmp/routers")
grep -q '"target_modules": "dummy-target-modules"' "$tmp/routers/adapter_config.json" || wrong "PEFT will not load it"
works verify $on --lora_model_dir "$tmp/routers" --format peft --output "$tmp/routers"
case='verify'
for format in peft peft-per-expert mlx merged; do
    works verify $on --lora_model_dir "$tmp/trained" --format $format --output "$tmp/$format" --json
    is "$("$TOOL" json applied < "$tmp/out")" "$("$TOOL" json planned < "$tmp/out")"
    grep -q '^applied 38 of 38' "$tmp/err" || wrong "no manifest"
done
works verify $on --datasets "$rows" --datasets.0.type tokens --lora_model_dir "$tmp/trained" --format mlx --output "$tmp/mlx" --json
for format in gguf gguf-lora; do
    file=whole; [ $format = gguf ] || file=lora
    works verify $on --lora_model_dir "$tmp/trained" --format $format --gguf_type f32 --base_gguf "$tmp/base.gguf" --output "$tmp/$file.gguf" --json
    grep -q '^applied 38 of 38' "$tmp/err" || wrong "no manifest"
done
case='verify what is another'
refuses 1 'whole.gguf: tensor .* the run' verify $on --lora_model_dir "$golden/adapter" --format gguf --gguf_type f32 --output "$tmp/whole.gguf"
refuses 1 'whole.gguf: tensor .* stored as F32, expected F16' verify $on --lora_model_dir "$tmp/trained" --format gguf --gguf_type f16 --output "$tmp/whole.gguf"
refuses 1 'lora.gguf: tensor .*lora_a: .* the run' verify $on --lora_model_dir "$golden/adapter" --format gguf-lora --base_gguf "$tmp/base.gguf" --output "$tmp/lora.gguf"
refuses 2 'base_gguf' verify $on --lora_model_dir "$tmp/trained" --format gguf-lora --output "$tmp/lora.gguf"
refuses 1 'base_gguf: .* is a directory' export $on --lora_model_dir "$tmp/trained" --format gguf-lora --base_gguf "$model" --output "$tmp/e.gguf"
refuses 1 'tensor .*lora_B.weight: .* scale' verify $on --lora_model_dir "$golden/adapter" --format peft --output "$tmp/peft"
refuses 1 'adapters.safetensors' verify $on --lora_model_dir "$tmp/trained" --format mlx --output "$tmp/peft"
refuses 1 'model.safetensors: tensor .* the run' verify $on --lora_model_dir "$golden/adapter" --format merged --output "$tmp/merged"
refuses 1 'nowhere' verify $on --lora_model_dir "$tmp/trained" --format peft --output "$tmp/nowhere"
refuses 2 'format' verify $on --lora_model_dir "$tmp/trained" --output "$tmp/peft"
refuses 2 'lora_model_dir' verify $on --format peft --output "$tmp/peft"
case='an export no engine asked for'
refuses 2 'format .*onnx.*peft' export --base_model "$model" --format onnx --output "$tmp/e"
absent "$tmp/e"
case='init and full training'
works init --base_model "$model/config.json" --output "$tmp/new"
works train --base_model "$tmp/new" --datasets "$rows" --datasets.0.type tokens --adapter none --max_steps 3 --output_dir "$tmp/f" --json
"$TOOL" json loss < "$tmp/out" > /dev/null || wrong "the last line is no JSON"
works eval --base_model "$tmp/f" --datasets "$rows" --datasets.0.type tokens

case='init from any file'
mkdir "$tmp/sizes"
cp "$model/config.json" "$tmp/sizes/tiny.json"
echo '{"model_type": "llama"}' > "$tmp/sizes/config.json"
echo '{}' > "$tmp/sizes/tokenizer_config.json"
echo mine > "$tmp/sizes/metrics.jsonl"
works init --base_model "$tmp/sizes/tiny.json" --output "$tmp/tiny" --json
"$TOOL" json parameters < "$tmp/out" > /dev/null || wrong "the last line is no JSON"
cmp -s "$tmp/tiny/config.json" "$model/config.json" || wrong "another config.json"
is "$(cd "$tmp/tiny" && echo *)" 'config.json model.safetensors tokenizer_config.json'
case='paths that cannot be'
refuses 2 'empty path' init --base_model "$model" --output ""
refuses 1 'holds the input' init --base_model "$model" --output "$model" --overwrite
printf 'base_model: %s\ndatasets: [{path: %s, type: tokens}]\n' "$model" "$rows" > "$tmp/own.yaml"
cp "$tmp/own.yaml" "$tmp/own.kept"
refuses 1 'holds the input .*own.yaml' logits "$tmp/own.yaml" --output "$tmp/own.yaml" --overwrite
refuses 1 'holds the input .*own.yaml' preprocess "$tmp/own.yaml" --output "$tmp/own.yaml" --overwrite
cmp -s "$tmp/own.yaml" "$tmp/own.kept" || wrong "wrote over its own config"
cp -r "$model" "$tmp/own"
for part in model.safetensors config.json; do
    refuses 1 "output .*$part is a file of the input" logits --base_model "$tmp/own" --datasets "$rows" --output "$tmp/own/$part" --overwrite
    refuses 1 "save_gradients .*$part is a file of the input" \
        train --base_model "$tmp/own" --datasets "$rows" --output_dir "$tmp/owned" --save_gradients "$tmp/own/$part"
    cmp -s "$tmp/own/$part" "$model/$part" || wrong "wrote over $part"
done
echo mine > "$tmp/gradients"
refuses 1 'save_gradients .* exists' train --base_model "$model" --datasets "$rows" --output_dir "$tmp/owned" --save_gradients "$tmp/gradients"
is "$(cat "$tmp/gradients")" mine
case='init that cannot be'
refuses 1 'is a file' init --base_model "$model" --output "$tmp/sizes/tiny.json/o" --json
grep -q '^{"error": ' "$tmp/out" || wrong "the last line is no error as JSON"
sed 's/"hidden_size": 20/"hidden_size": 268435456/;s/"moe_intermediate_size": [0-9]*/"moe_intermediate_size": 268435456/' \
    "$model/config.json" > "$tmp/sizes/huge.json"
refuses 1 'billion parameters' init --base_model "$tmp/sizes/huge.json" --output "$tmp/huge"
absent "$tmp/huge"
case='a result of training as the base of another'
works $(with train --adapter none --max_steps 1 --output_dir "$tmp/first")
works train --base_model "$tmp/first" --datasets "$rows" --datasets.0.type tokens --max_steps 1 --output_dir "$tmp/second"
cp "$tmp/second"/adapter_* "$tmp/second/moesmith.json" "$tmp/first"
works export --base_model "$tmp/first" --lora_model_dir "$tmp/second" --format merged --output "$tmp/third"
is "$(cd "$tmp/third" && echo *)" "$(cd "$model" && echo *)"

# ---- quantised bases ----

rm -rf "$tmp/o"
tokens="--datasets $rows --datasets.0.type tokens"
# loss_of BASE ARGUMENT... - eval's loss in $loss
loss_of() {
    works eval --base_model "$@" $tokens --compute f32 --json
    loss=$("$TOOL" json loss < "$tmp/out") || wrong "the last line is no JSON"
}
# refuses_base PATTERN - eval of $tmp/bad.h5
refuses_base() { refuses 1 "$1" eval --base_model "$tmp/bad.h5" $tokens; }
# spoil OFFSET - $tmp/q.h5 with another byte there, as $tmp/bad.h5
spoil() {
    cp "$tmp/q.h5" "$tmp/bad.h5"
    printf '\377' | dd of="$tmp/bad.h5" bs=1 seek="$1" conv=notrunc 2> /dev/null
}

case='quantize'
works quantize --base_model "$model" --base_quantization tq4 --output "$tmp/q.h5" --json
"$TOOL" json bytes < "$tmp/out" > /dev/null || wrong "the last line is no JSON"
grep -q '"experts": {"format": "tq4", "bits_per_weight"' "$tmp/out" || wrong "no report"
grep -q '^experts .*tq4' "$tmp/err" || wrong "no table"
loss_of "$tmp/q.h5"
quantised=$loss
loss_of "$model"
[ "$loss" != "$quantised" ] || wrong "quantising costs nothing"
case='verify a base'
works verify --output "$tmp/q.h5"
case='quantize by other threads'
OMP_NUM_THREADS=1 works quantize --base_model "$model" --base_quantization tq4 --output "$tmp/q1.h5"
cmp -s "$tmp/q.h5" "$tmp/q1.h5" || wrong "another file"
case='quantize without a format, into no .h5, from a .h5, over what is there'
refuses 2 'needs a format: --base_quantization bf16, int8, .*int4_g32 or mxfp4, or a map' quantize --base_model "$model" --output "$tmp/o.h5"
refuses 2 'NAME.h5' quantize --base_model "$model" --base_quantization nf4 --output "$tmp/o"
refuses 2 'quantised already' quantize --base_model "$tmp/q.h5" --base_quantization nf4 --output "$tmp/o.h5"
refuses 1 'exists' quantize --base_model "$model" --base_quantization nf4 --output "$tmp/q.h5"
absent "$tmp/o.h5"
case='a base cut short'
for bytes in 0 100 5000 60000; do
    dd if="$tmp/q.h5" of="$tmp/bad.h5" bs=1 count=$bytes 2> /dev/null
    refuses_base 'bad.h5'
done
case='a base altered'
for at in 20 60 4100 30000; do
    spoil $at
    refuses_base 'bad.h5'
done
case='a weight altered'
spoil $((($(wc -c < "$tmp/q.h5") - 1) / 4096 * 4096)) # where the last tensor begins
works eval --base_model "$tmp/bad.h5" $tokens
refuses 1 'bad.h5.*hash' verify --base_model "$model" --output "$tmp/bad.h5"
case='a file that is no base'
works $(with logits --output "$tmp/l2.h5")
cp "$tmp/l2.h5" "$tmp/bad.h5"
refuses_base 'HDF5 file, but no base'
cp "$rows" "$tmp/bad.h5"
refuses_base 'no base made by quantize'
rm "$tmp/bad.h5"
refuses_base 'bad.h5'
case='a base of another format than asked for'
refuses 1 'attention as nf4.*made with tq4' eval --base_model "$tmp/q.h5" --base_quantization nf4 $tokens
loss_of "$tmp/q.h5" --base_quantization tq4
is "$loss" "$quantised"
case='full training of a quantised base'
refuses 2 'those of base_model .* are quantised' train --base_model "$tmp/q.h5" $tokens --adapter none --output_dir "$tmp/o"
absent "$tmp/o"
case='a NaN while quantising'
damaged
"$TOOL" nan "$model/model.safetensors" "$st" $q
refuses 1 "$q holds NaN" quantize --base_model "$tmp/m" --base_quantization tq4 --output "$tmp/o.h5"
refuses 1 "$q holds NaN" train --base_model "$tmp/m" --base_quantization tq4 $tokens --output_dir "$tmp/o"
absent "$tmp/o.h5"
rm -rf "$tmp/o"
case='the disk is full: quantize'
limited 200 quantize --base_model "$model" --base_quantization int8 --output "$tmp/o.h5"
judged 1 'o.h5'
absent "$tmp/o.h5"

case='the cache beside a model'
damaged
loss_of "$tmp/m" --base_quantization tq4
is "$loss" "$quantised"
grep -q "wrote $tmp/m/moesmith-tq4.h5" "$tmp/err" || wrong "does not say so"
inode=$(ls -i "$tmp/m/moesmith-tq4.h5")
loss_of "$tmp/m" --base_quantization tq4
is "$loss" "$quantised"
is "$(ls -i "$tmp/m/moesmith-tq4.h5")" "$inode"
touch -d '2001-01-01' "$st"
loss_of "$tmp/m" --base_quantization tq4
[ "$(ls -i "$tmp/m/moesmith-tq4.h5")" != "$inode" ] || wrong "took the cache of another model"
case='a map, and a place for the cache'
printf 'base_model: %s\nbase_quantization: {experts: tq4, attention: nf4}\nbase_cache: %s\n' "$tmp/m" "$tmp/cache" > "$tmp/map.yaml"
works eval "$tmp/map.yaml" $tokens
[ -f "$tmp/cache/moesmith-attention-nf4,experts-tq4.h5" ] || wrong "no cache"
case='a place for the cache where something else lies'
echo mine > "$tmp/mine.h5"
refuses 1 'base_cache .*mine.h5 is no base' eval --base_model "$tmp/m" --base_quantization tq4 --base_cache "$tmp/mine.h5" $tokens
is "$(cat "$tmp/mine.h5")" mine
refuses 2 'empty path' eval --base_model "$tmp/m" --base_quantization tq4 --base_cache '' $tokens
case='a place for the cache where another base lies'
works quantize --base_model "$tmp/m" --base_quantization nf4 --output "$tmp/mine.h5" --overwrite
cp "$tmp/mine.h5" "$tmp/kept.h5"
loss_of "$tmp/m" --base_quantization nf4 --base_cache "$tmp/mine.h5"
refuses 1 'mine.h5 is a base of another format or model.*name another file' \
    eval --base_model "$tmp/m" --base_quantization tq4 --base_cache "$tmp/mine.h5" $tokens
refuses 1 'mine.h5 is a base of another format or model' \
    eval --base_model "$model" --base_quantization nf4 --base_cache "$tmp/mine.h5" $tokens
cmp -s "$tmp/mine.h5" "$tmp/kept.h5" || wrong "replaced it"
loss_of "$tmp/m" --base_quantization tq4 --base_cache "$tmp/mine.h5" --overwrite
is "$loss" "$quantised"
loss_of "$tmp/m" --base_quantization tq4 --base_cache "$tmp/mine.h5"
is "$loss" "$quantised"
rm "$tmp/mine.h5" "$tmp/kept.h5"
case='two at once'
rm "$tmp/m/moesmith-tq4.h5"
checks=$((checks + 1))
"$MOESMITH" eval --base_model "$tmp/m" --base_quantization tq4 $tokens --compute f32 > "$tmp/out2" 2> /dev/null &
pid=$!
loss_of "$tmp/m" --base_quantization tq4
wait $pid || wrong "the other failed"
is "$loss" "$quantised"

case='steps beyond all bounds'
refuses 1 'more than .* rows a step' estimate --base_model "$model" --micro_batch_size 1000000 --gradient_accumulation_steps 1000000
refuses 1 'more than .* tokens at once' estimate --base_model "$model" --micro_batch_size 1000 --sequence_len 16777216
case='training a quantised base, and going on'
works train --base_model "$tmp/q.h5" $tokens --max_steps 4 --save_steps 2 --output_dir "$tmp/o"
cp "$tmp/o/adapter_model.safetensors" "$tmp/kept"
rm -r "$tmp/o/checkpoint-4" "$tmp/o/adapter_model.safetensors"
works train --base_model "$tmp/q.h5" $tokens --max_steps 4 --save_steps 2 --output_dir "$tmp/o" --resume_from_checkpoint auto
cmp -s "$tmp/kept" "$tmp/o/adapter_model.safetensors" || wrong "other values"
works quantize --base_model "$model" --base_quantization nf4 --output "$tmp/other.h5"
refuses 1 'base_model is not what' train --base_model "$tmp/other.h5" $tokens --max_steps 6 --save_steps 2 --output_dir "$tmp/o" --resume_from_checkpoint auto
rm -r "$tmp/o"
case='merged out of a quantised base'
works export --base_model "$tmp/q.h5" --format merged --save_dtype f32 --output "$tmp/dequantised" --json
grep -q '"merge_into": "dequantised"' "$tmp/out" || wrong "does not say into what"
works verify --base_model "$tmp/q.h5" --format merged --save_dtype f32 --output "$tmp/dequantised"
loss_of "$tmp/dequantised"
is "$(echo "$loss" | cut -c 1-7)" "$(echo "$quantised" | cut -c 1-7)"
works export --base_model "$model" --base_quantization tq4 --format merged --output "$tmp/original" --json
grep -q '"merge_into": "original"' "$tmp/out" || wrong "does not say into what"
cmp -s "$tmp/original/model.safetensors" "$model/model.safetensors" || wrong "not the original"
refuses 2 'merge_into: original' export --base_model "$tmp/q.h5" --merge_into original --format merged --output "$tmp/none"

for bits in 4 8; do
    case="a checkpoint of bitsandbytes, $bits bits, routers too"
    for form in bnb open; do
        damaged
        "$TOOL" $form$bits "$model/model.safetensors" "$st"
        rm -rf "$tmp/$form$bits"
        mv "$tmp/m" "$tmp/$form$bits"
    done
    loss_of "$tmp/open$bits"
    opened=$loss
    loss_of "$tmp/bnb$bits"
    is "$loss" "$opened"
    works estimate --base_model "$tmp/bnb$bits" $tokens --json
    "$TOOL" json peak_memory_bytes < "$tmp/out" > /dev/null || wrong "the last line is no JSON"
    works train --base_model "$tmp/bnb$bits" $tokens --max_steps 1 --router.train full --output_dir "$tmp/b$bits"
    works quantize --base_model "$tmp/bnb$bits" --base_quantization.experts int8 --output "$tmp/bnb$bits.h5"
    loss_of "$tmp/bnb$bits" --base_quantization.experts int8
    of_cache=$loss
    loss_of "$tmp/bnb$bits.h5"
    is "$loss" "$of_cache"
    works export --base_model "$tmp/bnb$bits" --format merged --save_dtype f32 --output "$tmp/unpacked$bits"
    loss_of "$tmp/unpacked$bits"
    is "$loss" "$opened"
done

case='init straight into a base, from any config file'
works init --base_model "$tmp/sizes/tiny.json" --save_dtype bf16 --base_quantization nf4 --output "$tmp/random.h5" --json
"$TOOL" json parameters < "$tmp/out" > /dev/null || wrong "the last line is no JSON"
loss_of "$tmp/random.h5"
at_once=$loss
works init --base_model "$tmp/sizes/tiny.json" --save_dtype bf16 --output "$tmp/random"
loss_of "$tmp/random" --base_quantization nf4
is "$loss" "$at_once"
refuses 2 'NAME.h5' init --base_model "$model" --base_quantization nf4 --output "$tmp/random.dir"

# A model that takes a moment.
sed 's/"hidden_size": 20/"hidden_size": 320/;s/"moe_intermediate_size": [0-9]*/"moe_intermediate_size": 320/' \
    "$model/config.json" > "$tmp/sizes/large.json"
works init --base_model "$tmp/sizes/large.json" --save_dtype bf16 --output "$tmp/large"
case='kill -9 while quantising'
works quantize --base_model "$tmp/large" --base_quantization tq4_b64 --output "$tmp/whole.h5"
for pause in 0.03 0.08 0.05 0.12 0.1; do
    "$MOESMITH" quantize --base_model "$tmp/large" --base_quantization tq4_b64 --output "$tmp/killed.h5" --overwrite > "$tmp/out" 2> "$tmp/err" &
    pid=$!
    sleep $pause
    kill -9 $pid 2> /dev/null
    wait $pid 2> /dev/null
    [ ! -e "$tmp/killed.h5" ] || cmp -s "$tmp/whole.h5" "$tmp/killed.h5" || wrong "a file that is not whole"
done
works quantize --base_model "$tmp/large" --base_quantization tq4_b64 --output "$tmp/killed.h5" --overwrite
cmp -s "$tmp/whole.h5" "$tmp/killed.h5" || wrong "another file"
case='what a killed run left is of another format'
"$MOESMITH" quantize --base_model "$tmp/large" --base_quantization nf4 --output "$tmp/left.h5" > "$tmp/out" 2> "$tmp/err" &
pid=$!
while [ ! -s "$tmp/left.h5.moesmith.partial" ] && kill -0 $pid 2> /dev/null; do sleep 0.005; done
kill -9 $pid 2> /dev/null
wait $pid 2> /dev/null
if [ -e "$tmp/left.h5.moesmith.partial" ]; then
    works quantize --base_model "$tmp/large" --base_quantization tq4_b64 --output "$tmp/left.h5"
    grep -q "^begun anew: what a stopped run left of $tmp/left.h5 is of another format" "$tmp/err" || wrong "discards it silently"
    cmp -s "$tmp/whole.h5" "$tmp/left.h5" || wrong "another file"
else
    echo "skipped: it was too fast to be killed"
fi
[ -z "$(find "$tmp" -name '*.partial*')" ] || wrong "left $(find "$tmp" -name '*.partial*')"

echo "$checks runs of the program, $failed wrong"
[ "$failed" = 0 ]
