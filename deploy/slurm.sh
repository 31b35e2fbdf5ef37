#!/bin/bash
# One run on the nodes of a Slurm job, with a Ray cluster that exists as long as the job. It gives all of its arguments
# to `anything3d run`:
#
#     sbatch --nodes=4 --gpus-per-node=8 deploy/slurm.sh '/data/sa_*.tar' --out /data/corpus --preset default
#
# What stands after #SBATCH is replaced by options of sbatch. The package has to be installed where all nodes see it:
# activate its environment before sbatch. A job that was stopped is continued by the same sbatch.
#SBATCH --job-name=anything3d
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail

port=${RAY_PORT:-6379}
folder=/tmp/ray-$SLURM_JOB_ID # on every node: Ray's logs and sockets; short, as the names of sockets have a limit
cpus=${SLURM_CPUS_PER_TASK:-$(nproc)}
start=(ray start --block --disable-usage-stats "--num-cpus=$cpus" "--num-gpus=${SLURM_GPUS_ON_NODE:-0}")
# The first address of this node, which is the first of the job. Set HEAD_IP if the other nodes reach it by another one.
head_ip=${HEAD_IP:-$(hostname -I | cut -d ' ' -f 1)}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# Other users of the cluster reach the ports, too. Only who can read this file is let in.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$PWD/.ray-token-$SLURM_JOB_ID
(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")
export SRUN_CPUS_PER_TASK=$cpus RAY_ADDRESS=$head_ip:$port

steps=() run=
# shellcheck disable=SC2329 # the trap calls it
end() {
    if ((${#steps[@]})); then
        kill "${steps[@]}" 2>/dev/null || true
        for ((tries = 0; tries < 30; tries++)); do # a head that still starts does not hear it
            kill -0 "${steps[@]}" 2>/dev/null || break
            sleep 1
        done
        kill -KILL "${steps[@]}" 2>/dev/null || true
    fi
    srun --ntasks-per-node=1 rm -rf "$folder" || true
    rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap end EXIT
trap '[[ -z $run ]] || kill -TERM "$run"' TERM # Slurm's, before the time of the job is over

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    "${start[@]}" --head "--node-ip-address=$head_ip" "--port=$port" --include-dashboard=false "--temp-dir=$folder" &
steps+=($!)
for ((tries = 0; ; tries++)); do
    [[ $(ray status --address "$RAY_ADDRESS" 2>/dev/null) == *node_* ]] && break # the node itself is up, too
    kill -0 "${steps[0]}" 2>/dev/null || exit 4 # the head has ended, and said why
    ((tries < 100)) || exit 4
    sleep 2
done
if ((SLURM_JOB_NUM_NODES > 1)); then
    others=$((SLURM_JOB_NUM_NODES - 1))
    srun --nodes="$others" --ntasks="$others" --exclude="$head" "${start[@]}" "--address=$RAY_ADDRESS" &
    steps+=($!)
fi

# The run uses the nodes that are up, and chooses its actors anew when others come.
anything3d run "$@" &
run=$!
code=0
wait "$run" || code=$?
if kill -0 "$run" 2>/dev/null; then # a signal has come, and the run is about to end
    code=0
    wait "$run" || code=$?
fi
exit "$code"
