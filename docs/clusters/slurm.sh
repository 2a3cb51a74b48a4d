#!/usr/bin/env bash
# Run a suite on the nodes of a Slurm allocation:
#
#     sbatch --nodes=4 --ntasks-per-node=1 --cpus-per-task=8 --gpus-per-node=1 docs/clusters/slurm.sh run cifar10 --out /shared/out
#
# Ray's head starts on the first node, a worker on each other one, and `fairbench` on the head once all have joined. The
# environment must be the same on every node, and so must the working directory and the folder of --out, unless that is a
# URL. RAY_PORT (6379) must be free on the first node and below 10000, where Ray's workers' own begin.
set -euo pipefail

port=${RAY_PORT:-6379}
patience=${RAY_PATIENCE:-120}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=${nodes[0]}:$port
resources=(--num-cpus "${SLURM_CPUS_PER_TASK:-1}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}")

on=(srun --nodes=1 --ntasks=1 --overlap --nodelist) # node, command...

started=()
trap 'kill "${started[@]}" 2>/dev/null || true; wait' EXIT

"${on[@]}" "${nodes[0]}" ray start --head --block --port "$port" --disable-usage-stats "${resources[@]}" &
started+=($!)
for node in "${nodes[@]:1}"; do
    "${on[@]}" "$node" bash -c 'until ray start --block --address "$0" --disable-usage-stats "${@}"; do sleep 2; done' \
        "$address" "${resources[@]}" &
    started+=($!)
done

alive='import ray, sys; ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False); print(sum(n["Alive"] for n in ray.nodes()))'
deadline=$((SECONDS + patience))
while true; do
    joined=$(timeout 30 "${on[@]}" "${nodes[0]}" python -c "$alive" "$address" 2>/dev/null || true)
    ((${joined:-0} >= ${#nodes[@]})) && break
    if ! kill -0 "${started[0]}" 2>/dev/null; then
        echo "slurm.sh: Ray's head on ${nodes[0]} has ended" >&2
        exit 1
    fi
    if ((SECONDS >= deadline)); then
        echo "slurm.sh: ${joined:-0} of ${#nodes[@]} nodes joined within $patience s" >&2
        exit 1
    fi
    sleep 3
done
"${on[@]}" "${nodes[0]}" fairbench "$@" --launcher ray --address "$address"
