#!/usr/bin/env bash
# All work that needs a CUDA device, most valuable first, at most 9 minutes a call; call it again to go on.
#
#   tests/gpu/run.sh [FOLDER]     results and state in FOLDER, by default $OUT or ./gpu-out
#
# A step that is done leaves FOLDER/<step>.done and is not run again; one that fails leaves <step>.failed and its log,
# and the next step runs. Training goes on from the last epoch. Images of CIFAR-10: $FAIRBENCH_GPU_DATA, a dataset's
# name as `fairbench run` takes it (npz:train.npz,test.npz); else `cifar10` where it is found; else made ones, which are
# good for times and for nothing else. Needs the base dependencies, pytest, hypothesis and pytest-benchmark; no network.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2

out=${1:-${OUT:-./gpu-out}}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
python=${PYTHON:-python3}
budget=${FAIRBENCH_GPU_SECONDS:-520}
export PYTHONUNBUFFERED=1

say() { printf '%s\n' "$*" | tee -a "$out/summary.txt"; }
left() { echo $((budget - SECONDS)); }

steps=(kernels syncs memory ranks benchmarks-kernels benchmarks-training benchmarks-attack training)
declare -A command=(
    [kernels]="$python -m pytest -q -p no:cacheprovider tests/kernels -m gpu"
    [syncs]="$python -m pytest -q -p no:cacheprovider tests/gpu/test_training.py -m gpu"
    [memory]="$python -m pytest -q -p no:cacheprovider tests/gpu/test_memory.py -m gpu"
    [ranks]="$python -m pytest -q -p no:cacheprovider tests/gpu/test_ranks.py -m gpu"
    [benchmarks-kernels]="$python -m pytest -q -s -p no:cacheprovider tests/benchmarks/test_kernels.py -m slow --benchmark-json=$out/kernels.json"
    [benchmarks-training]="$python -m pytest -q -s -p no:cacheprovider tests/benchmarks/test_training.py -m slow -k step --benchmark-json=$out/training.json"
    [benchmarks-attack]="$python -m pytest -q -s -p no:cacheprovider tests/benchmarks/test_training.py -m slow -k 'test_attack or test_memory'"
    [training]="$python tests/gpu/train_fast.py $out"
)

say "== $(date -u +%FT%TZ) $(git rev-parse --short HEAD 2>/dev/null || echo 'no commit')"

if ! "$python" -c 'import fairbench, fairbench.methods' 2>/dev/null; then
    if ! "$python" -m pip install -q -e . --no-deps --no-build-isolation >"$out/install.log" 2>&1; then
        # what setup.cfg maps and declares, by links: methods/ as fairbench.methods, and the entry point that finds it
        path=$out/path
        mkdir -p "$path/fairbench" "$path/robust_fairbench-0.dist-info"
        ln -sfn "$PWD"/fairbench/* "$PWD/methods" "$path/fairbench/"
        printf 'Metadata-Version: 2.1\nName: robust-fairbench\nVersion: 0\n' >"$path/robust_fairbench-0.dist-info/METADATA"
        printf '[fairbench.methods]\nbuiltin = fairbench.methods\n' >"$path/robust_fairbench-0.dist-info/entry_points.txt"
        export PYTHONPATH="$path${PYTHONPATH:+:$PYTHONPATH}"
        say "install: failed, see install.log; fairbench runs from links to the checkout"
    fi
fi

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>"$out/device.log"; then
    say "no CUDA device is here"
    for step in "${steps[@]}"; do say "skipped: $step"; done
    exit 0
fi
"$python" -c 'import torch, triton; print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__)' |
    tee -a "$out/summary.txt"

for step in "${steps[@]}"; do
    if [[ -e $out/$step.done ]]; then
        say "done before: $step"
        continue
    fi
    if (($(left) < 45)); then
        say "skipped: $step, no time left in this call; call again"
        continue
    fi
    # INT, so that training keeps its state
    timeout --signal=INT --kill-after=20 "$(left)" bash -c "${command[$step]}" >"$out/$step.log" 2>&1
    status=$?
    rm -f "$out/$step.failed"
    case $status in
        0) touch "$out/$step.done" && say "done: $step: $(tail -n 1 "$out/$step.log")" ;;
        124 | 130) say "unfinished: $step, out of time; call again" ;;
        *) touch "$out/$step.failed" && say "failed ($status): $step: $(tail -n 1 "$out/$step.log")" ;;
    esac
done
