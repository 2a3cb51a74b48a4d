#!/bin/sh
# Tune digits in two lots and run the board of each, then the ablations. Started again after a kill, it resumes.
#
# The first lot holds the methods whose settings must not have collapsed on held-out images before a test image is read.
# The second lot gives every other method the same automatic budget, as a newcomer's method gets it.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=
jobs=${JOBS:-2}
first=sat,trades,rslad,absld,adaad,frl,bat,cfa_sat,fair_ard,fairat,absld_released

lot() {
    fairbench tune digits --methods "$1" --jobs "$jobs" --publish
    mkdir -p fairbench/suites/tuned
    cp tuning/digits/v4.yaml fairbench/suites/tuned/digits-v4.yaml
    fairbench run digits --methods "$1" --seeds 0,1,2,3,4 --jobs "$jobs" --publish
    python docs/prune_results.py digits
}

lot "$first"
fairbench run digits-ablations --jobs "$jobs" --publish
python docs/prune_results.py digits-ablations
lot all
