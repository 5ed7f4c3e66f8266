#!/usr/bin/env bash
# From a fresh Debian machine to a trained and evaluated model and a sample of its text, in one command.
# Everything it makes lies under build/ and out/; a second run reuses what is there.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
config=$root/deploy/configs/nano.toml
worker=$root/build/release/bin/worker
pserver=$root/build/release/bin/pserver
validation_ratio=0.1

data=
out=$root/out/quickstart
steps=800
shards=2
workers=2
embedded=no

usage() {
  cat <<'EOF'
usage: deploy/quickstart.sh [--data PATH] [--steps N] [--shards N] [--workers N] [--embedded] [--out DIR]
  Installs what is missing, builds, trains the nano model on English text, evaluates it, shows a sample.
  --data PATH   train on this text file, or on all files of this folder, instead of the King James Bible
  --steps N     training steps (default 800)
  --shards N    parameter servers (default 2; the result is the same)
  --workers N   workers that train together (default 2; the result is the same)
  --embedded    one process that holds servers and worker, instead of a process each
  --out DIR     where the run is written (default out/quickstart)
EOF
}

fail() {
  echo "quickstart: $*" >&2
  exit 1
}
bad_usage() {
  echo "quickstart: $*" >&2
  usage >&2
  exit 2
}
headline() {
  printf '\n== %s\n' "$*"
}

# --- options ------------------------------------------------------------------------------------

while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --embedded) embedded=yes; shift ;;
    --data | --steps | --shards | --workers | --out)
      [ -n "${2:-}" ] || bad_usage "$1 needs a value"
      case "$1" in
        --data) data=$2 ;;
        --steps) steps=$2 ;;
        --shards) shards=$2 ;;
        --workers) workers=$2 ;;
        --out) out=$2 ;;
      esac
      shift 2
      ;;
    *) bad_usage "unknown option '$1'" ;;
  esac
done
[[ $steps =~ ^[1-9][0-9]*$ ]] || bad_usage "--steps: '$steps' is not a positive number"
[[ $shards =~ ^[1-9][0-9]*$ ]] || bad_usage "--shards: '$shards' is not a positive number"
[[ $workers =~ ^[1-9][0-9]*$ ]] || bad_usage "--workers: '$workers' is not a positive number"
[ -z "$data" ] || [ -e "$data" ] || bad_usage "--data: there is no '$data'"
[[ $out = /* ]] || out=$PWD/$out
[ -z "$data" ] || [[ $data = /* ]] || data=$PWD/$data
mkdir -p "$out/data" "$out/logs" || fail "cannot write to $out"
shown=${out#"$PWD"/}

# Runs a command with its output in a log; on failure shows the end of the log.
logged() {
  local log=$1
  shift
  if ! "$@" > "$log" 2>&1; then
    tail -n 25 "$log" >&2
    fail "failed: $* (all of it: $log)"
  fi
}

# --- packages -----------------------------------------------------------------------------------

headline "Packages"
echo "installing what is missing (the first time takes minutes; log: $shown/logs/packages.log)"
logged "$out/logs/packages.log" "$root/deploy/install_packages.sh" build quickstart

# --- build --------------------------------------------------------------------------------------

headline "Build"
cd "$root"
if [ ! -f build/release/build.ninja ]; then
  logged "$out/logs/configure.log" cmake --preset release
fi
echo "compiling (the first time takes minutes; log: $shown/logs/build.log)"
logged "$out/logs/build.log" cmake --build --preset release --target worker pserver
tail -n 1 "$out/logs/build.log"

# --- text ---------------------------------------------------------------------------------------

headline "Text"
text=$out/data/text.txt
if [ -z "$data" ]; then
  text=$out/data/kjv.txt
  if [ ! -s "$text" ]; then
    # One verse a line; the reference before each verse is no prose. Run elsewhere than in a folder
    # of the user's: the program prefers a data file in the current one.
    (cd "$out/data" && bible -f gen1:1-rev22:21 < /dev/null) | sed 's/^[^ ]* //' > "$text.part"
    [ "$(wc -c < "$text.part")" -gt 4000000 ] || fail "the bible program gave too little text"
    mv "$text.part" "$text"
  fi
  echo "the King James Bible (1611, public domain; Debian package bible-kjv-text)"
elif [ -d "$data" ]; then
  (cd "$data" && find . -name '.?*' -prune -o -type f -print0 | LC_ALL=C sort -z |
    xargs -0 -r cat --) > "$text.part"
  mv "$text.part" "$text"
  echo "all files of $data"
else
  cat -- "$data" > "$text.part"
  mv "$text.part" "$text"
  echo "$data"
fi
bytes=$(wc -c < "$text")
[ "$bytes" -ge 100000 ] || fail "$bytes bytes of text are too few to train on; give 100 kB at least"
heldout=$out/data/heldout.txt
yardstick=$(/usr/bin/python3 -B tests/support/order2.py "$text" --validation-ratio "$validation_ratio" \
  --write-heldout "$heldout")
echo "$bytes bytes, of which the last $(wc -c < "$heldout") are held out"

# --- training -----------------------------------------------------------------------------------

# Processes started here end with this script, whatever happens; each is known by its id.
started=()
stop_started() {
  local id
  for id in "${started[@]}"; do kill "$id" 2> /dev/null || true; done
  for id in "${started[@]}"; do wait "$id" 2> /dev/null || true; done
  started=()
}
trap stop_started EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Starts server $1 on a port that the system chooses and adds its address to `addresses`.
addresses=
start_server() {
  local said=$out/logs/pserver-$1.out address=
  "$pserver" serve --listen tcp://127.0.0.1:0 --shard "$1/$shards" --data "$out/state" --threads 1 \
    > "$said" 2> "$out/logs/pserver-$1.log" &
  started+=($!)
  for _ in $(seq 100); do
    address=$(sed -n 's/^listening //p' "$said")
    [ -z "$address" ] || break
    sleep 0.1
  done
  [ -n "$address" ] || fail "server $1 does not start: $(tail -n 1 "$out/logs/pserver-$1.log")"
  addresses=${addresses:+$addresses,}$address
}

rm -rf "$out/state" "$out/metrics.jsonl" "$out/loss.svg" "$out/model.safetensors"
train=("$worker" train --config "$config" --data "$text"
  --set "train.steps=$steps" --set "data.validation_ratio=$validation_ratio")
if [ "$embedded" = yes ]; then
  headline "Training: nano, $steps steps, $shards parameter servers and a worker in one process"
  train+=(--shards "$shards")
else
  headline "Training: nano, $steps steps, $shards parameter servers and $workers workers as processes"
  for ((shard = 0; shard < shards; ++shard)); do start_server "$shard"; done
  echo "servers: $addresses"
  cores=$(nproc)
  train+=(--pservers "$addresses" --threads $((cores > workers ? cores / workers : 1)))
  for ((i = 2; i <= workers; ++i)); do
    "${train[@]}" --out "$out/worker-$i" > "$out/logs/worker-$i.log" 2>&1 &
    started+=($!)
  done
fi
"${train[@]}" --out "$out" --export "$out/model.safetensors" \
  2>&1 | tee "$out/logs/train.log" || fail "training failed (log: $out/logs/train.log)"
stop_started

for file in metrics.jsonl loss.svg model.safetensors; do
  [ -s "$out/$file" ] || fail "training ended without writing $out/$file (log: $out/logs/train.log)"
done

# --- what came out ------------------------------------------------------------------------------

headline "Loss on the held-out text"
"$worker" eval --model "$out/model.safetensors" --data "$heldout" > "$out/logs/eval.log" 2>&1 ||
  { cat "$out/logs/eval.log" >&2; fail "evaluation failed"; }
sed 's/^/MemoryFormer nano:  /' "$out/logs/eval.log"
echo "$yardstick"

headline "A sample"
if [ -z "$data" ]; then
  prompt='And God said'
else
  prompt=$(head -c 400 "$heldout" | tr -s '[:space:]' ' ' | cut -d ' ' -f 2-6)
fi
"$worker" generate --model "$out/model.safetensors" --prompt "$prompt" --tokens 400 \
  --temperature 0.7 --seed 1 > "$out/sample.txt" || fail "generating failed"
cat "$out/sample.txt"

headline "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s"
cat <<EOF
$shown/loss.svg            the loss curve
$shown/metrics.jsonl       one line per step
$shown/model.safetensors   the model; more text from it:
    build/release/bin/worker generate --model $shown/model.safetensors --prompt "In the beginning"
$shown/logs/               what each part printed
Next: docs/TRAINING.md (more than one machine), docs/OPTIONS.md, ARCHITECTURE.md (how it works).
EOF
