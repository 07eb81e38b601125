#!/bin/sh
# quickstart.sh - from a fresh clone to a fine-tuned model: installs what is missing, builds, teaches the small Mixture-of-Experts
# model in configs/quickstart/model to answer requests with commands, and shows what it said before and after. Everything made
# lies in build/ and out/quickstart/; it may be run again.
set -eu
cd "$(dirname "$0")/.."
began=$(date +%s)
. train/install.sh

config=configs/quickstart/finetune.yaml
heldout=configs/quickstart/heldout.jsonl
out=out/quickstart
adapter=$out/adapter
shown="20 9 16 35 63 45" # rows of heldout.jsonl to print: the first 32 are common words, then words that no training row has
. train/show.sh

# measure NAME [FLAGS...]: the held-out loss, the answers and the load of the experts, as $out/NAME.*
measure() {
    name=$1
    shift
    quietly "$name-loss" build/moesmith eval $config --datasets $heldout "$@"
    quietly "$name-answers" build/moesmith generate $config --prompts configs/quickstart/prompts.jsonl --max_new_tokens 64 \
        --output "$out/$name.jsonl" --overwrite "$@"
    quietly "$name-routes" build/moesmith routes $config --datasets $heldout --output "$out/$name.h5" --overwrite --json "$@"
}

# Requests and answers: those of the rows in $shown, or of the rows that are missed still, or the share of exact answers.
answers() {
    awk -v part="$1" -v shown=" $shown " -v before="$out/before.jsonl" -v after="$out/after.jsonl" -v bold="$bold" -v green="$green" -v plain="$plain" '
        function cut(line, from, to) { sub(from, "", line); sub(to, "", line); gsub(/\\"/, "\"", line); return line }
        function answer(file, line) {
            if ((getline line < file) <= 0) return "(no answer)"
            return cut(line, "^[{]\"text\": \"", "\", \"ids\": [[][0-9, ]*[]][}]$")
        }
        {
            ask = cut($0, "^.*\"user\", \"content\": \"", "\"[}], [{]\"role\": \"assistant\".*$")
            want = cut($0, "^.*\"assistant\", \"content\": \"", "\"[}][]][}]$")
            old = answer(before); new = answer(after)
            half = NR > 32; rows[half]++; was[half] += old == want; is[half] += new == want
        }
        part == "shown" && index(shown, " " NR " ") {
            if (!told[half]++) print (half ? "\nWith a word that no training row has" : "New combinations of words that it was trained on")
            print "\n  request   " bold ask plain "\n  before    " old
            print "  after     " new (new == want ? green "  (as expected)" plain : "\n  expected  " want)
        }
        part == "missed" && new != want {
            if (!missed++) print "\n  Not exact:"
            print "  request   " ask "\n  after     " new "\n  expected  " want
        }
        END {
            if (part != "shares") exit
            line = "  %-52s %6s  %6s\n"
            printf line, "exact answers, new combinations of trained words", was[0] "/" rows[0], is[0] "/" rows[0]
            printf line, "exact answers, a word that no training row has", was[1] "/" rows[1], is[1] "/" rows[1]
        }' $heldout
}

# A bar an expert before and after, and how much of the load went to other experts: the loads are in the line of --json.
experts() {
    awk '
        function load_of(line, load, n, i) {
            n = split(line, part, /"load": [[]/)
            for (i = 2; i <= n; i++) { sub(/[]].*/, "", part[i]); load[i - 2] = part[i] }
        }
        function moved(a, b, x, y, n, i, all, gone) {
            n = split(a, x, ", "); split(b, y, ", ")
            for (i = 1; i <= n; i++) { all += x[i]; gone += x[i] > y[i] ? x[i] - y[i] : 0 }
            return 100 * gone / all
        }
        FNR == 1 { file++ }
        /^layer/ { bars[file, $2] = $3; layers = $2 + 1 }
        /^[{]/ && file == 1 { load_of($0, was) }
        /^[{]/ && file == 2 { load_of($0, is) }
        END {
            for (l = 0; l < layers; l++)
                printf "  layer %d  %s   %s   %2.0f %% of the load moved\n", l, bars[1, l], bars[2, l], moved(was[l], is[l])
        }' $out/before-routes.log $out/after-routes.log
}

mkdir -p $out
build_moesmith
printf 'asking the base model 64 held-out requests ... '
measure before
echo "done"

title "Fine-tuning: moesmith train $config"
build/moesmith train $config --output_dir $adapter --overwrite
measure after --lora_model_dir $adapter

title "Held-out requests, before and after"
answers shown
title "All 64 held-out requests                                before   after"
answers shares
printf '  %-52s %6s  %6s\n' "loss per token of the expected answers" "$(loss before)" "$(loss after)"
answers missed

title "The load of the 16 experts on these rows, before and after"
experts

title "Done in $(($(date +%s) - began)) s. The adapter, in PEFT's form: $adapter"
cat << END
  talk to it ("Remind me to water the roses tomorrow at nine.")
      build/moesmith chat $config --lora_model_dir $adapter
  merge it with the base into one checkpoint
      build/moesmith export $config --lora_model_dir $adapter \\
          --format merged --output out/merged
  teach your own rows: copy $config, change datasets (and base_model), and
      build/moesmith train YOURS.yaml
END
