#!/bin/sh
# Tune cifar10-micro in lots, run each lot's board, then cifar100-micro. Started again after a kill, it goes on from there.
# With LOT=1 or LOT=2 or LOT=100 it does one lot alone. FAIRBENCH_DATA names the folder of CIFAR-10 and CIFAR-100.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=
jobs=${JOBS:-1}

lot() { # suite, version, methods: the settings chosen so far go to the package before the board runs
    fairbench tune "$1" --methods "$3" --jobs "$jobs" --publish
    mkdir -p fairbench/suites/tuned
    cp "tuning/$1/v$2.yaml" "fairbench/suites/tuned/$1-v$2.yaml"
    fairbench run "$1" --methods "$3" --jobs "$jobs" --publish
}

case ${LOT:-all} in 1 | all)
    lot cifar10-micro 3 sat,trades,rslad,absld,absld_released,fair_ard,dafa,cfa_trades ;;
esac
case ${LOT:-all} in 100 | all)
    lot cifar100-micro 1 sat,trades,rslad,absld ;;
esac
case ${LOT:-all} in 2 | all)
    lot cifar10-micro 3 fair_rslad,ard,adaad,frl,bat,cfa_sat,wat,faal,fairat,trix,cfol ;;
esac
