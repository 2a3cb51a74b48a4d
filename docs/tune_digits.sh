#!/bin/sh
# Tune digits, then run its board and its ablations. Started again after a kill, it goes on from there.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=
jobs=${JOBS:-2}

fairbench tune digits --methods all --jobs "$jobs" --publish
mkdir -p fairbench/suites/tuned
cp tuning/digits/v4.yaml fairbench/suites/tuned/digits-v4.yaml

fairbench run digits --methods all --seeds 0,1,2,3,4 --jobs "$jobs" --publish
fairbench run digits-ablations --jobs "$jobs" --publish
