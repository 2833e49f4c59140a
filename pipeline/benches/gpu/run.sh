#!/usr/bin/env bash
# Measures one device, from the folder that carry.sh packed; README.md says what.
#
#     DEVICE=cuda:0 bash run.sh
#
# PYTHON names a Python with torch, transformers and peft (python3); SIZES what the benchmark is given beside the device.
set -uo pipefail
cd "$(dirname "$0")"
device=${DEVICE:-cuda:0}
python=${PYTHON:-python3}
read -r -a sizes <<<"${SIZES:---dims small,smol --seq 32,128}"
if [ -z "${CUDA_PATH:-}" ] && command -v nvcc >/dev/null; then
    CUDA_PATH=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
    export CUDA_PATH
fi
export FEDPIPE_KERNELS=$PWD/kernels HF_HUB_OFFLINE=1

part=$(./fedpipe devices | grep "^$device " | sed "s/^$device *//; s/  (what.*//")
if [ -z "$part" ]; then
    ./fedpipe devices
    echo "there is no $device here" >&2
    exit 1
fi
report=$(tr 'A-Z ' 'a-z-' <<<"$part" | tr -cd 'a-z0-9-').md
exec > >(tee "$report") 2>&1

echo "# $part"
echo
echo '```'
./fedpipe devices
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
fi
echo '```'

# quickstart NAME PROGRAM OPTIONS...: a table's row of the last score, the mean of the last round's losses, and seconds.
quickstart() {
    local name=$1 program=$2
    shift 2
    rm -rf "store-$name"
    "$program" --store "store-$name" run graphs/quickstart.ron --json "$@" >events 2>told || {
        echo "| $name | failed: $(tail -1 told) | | |"
        return
    }
    "$python" - "$name" <<'PY'
import json, sys

events = [json.loads(line) for line in open("events")]
metrics = [e for e in events if e["event"] == "metric" and e.get("client") is None or e.get("name") == "train_loss"]
score = [e["value"] for e in metrics if e["name"] == "accuracy"][-1]
last = max(e["round"] for e in metrics if e["name"] == "train_loss")
losses = [e["value"] for e in metrics if e["name"] == "train_loss" and e["round"] == last]
print(f"| {sys.argv[1]} | {score:.4f} | {sum(losses) / len(losses):.5f} | {events[-1]['seconds']:.1f} |")
PY
}

echo
echo "## The quickstart"
echo
echo "| run | accuracy | mean loss of the last round | seconds |"
echo "| --- | --- | --- | --- |"
quickstart cpu ./fedpipe --device cpu
quickstart cpu-stock ./fedpipe --device cpu --kernels stock
quickstart first ./fedpipe --device "$device" --cohort 10
quickstart again ./fedpipe --device "$device" --cohort 10
quickstart alone ./fedpipe --device "$device" --cohort 1
[ -x ./fedpipe-cpp ] && FEDPIPE_KERNELS=$PWD/kernels-cpp quickstart cpp ./fedpipe-cpp --device "$device" --cohort 10
echo
echo '`again` is `first` with an empty store and the kernels of `first`.'

peers=()
if "$python" -c 'import torch, transformers, peft; assert torch.cuda.is_available()' 2>/dev/null; then
    peers=(--python "$python" --peer peers/step.py)
else
    echo
    echo "No comparison with PEFT: $python has no torch with CUDA, transformers and peft."
fi
for program in ./gpu ./gpu-cpp; do
    [ -x "$program" ] || continue
    echo
    echo "## A step by ${program#./}"
    for precision in F32 Bf16 F16; do
        "$program" --device "$device" --kernels "$PWD/kernels-${program#./}" --precision "$precision" "${sizes[@]}" "${peers[@]}" >out 2>told &&
            sed -n '/^| base/,$p' out | sed "1i\\\n$precision\n" || echo "$precision: $(grep -v '^note' told | tail -1)"
        peers=()
    done
done
echo
echo "Written to $report" >&2
