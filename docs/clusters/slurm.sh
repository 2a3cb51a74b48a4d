#!/usr/bin/env bash
# Run a suite on the nodes of a Slurm allocation:
#
#     sbatch --nodes=4 --ntasks-per-node=1 --cpus-per-task=8 --gpus-per-node=1 docs/clusters/slurm.sh run cifar10 --out /shared/out
#
# Ray's head starts on the first node, a worker on each other one, and `fairbench` on the head once all have joined. The
# working directory, the environment and the folder of --out must be the same on every node.
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
for ((waited = 0; ; waited += 3)); do
    joined=$("${on[@]}" "${nodes[0]}" python -c "$alive" "$address" 2>/dev/null || echo 0)
    ((joined >= ${#nodes[@]})) && break
    if ((waited >= patience)); then
        echo "slurm.sh: $joined of ${#nodes[@]} nodes joined within $patience s" >&2
        exit 1
    fi
    sleep 3
done
"${on[@]}" "${nodes[0]}" fairbench "$@" --launcher ray --address "$address"
