#!/bin/bash
# A fedmem run over several nodes of a Slurm cluster: sbatch configs/cluster/slurm.sh my.yaml
# The environment (VENV), the data and the base must lie in folders that all nodes see.
#SBATCH --job-name=fedmem
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=08:00:00
##SBATCH --gpus-per-task=1    # with engine.device=cuda engine.gpus=1 below

set -euo pipefail
CONFIG=${1:?usage: sbatch slurm.sh CONFIG [KEY=VALUE ...]}
VENV=${VENV:-$PWD/.venv}
PORT=$((20000 + SLURM_JOB_ID % 10000))    # so that two jobs on one node do not meet
export RAY_USAGE_STATS_ENABLED=0
export RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID  # short: the paths of Ray's sockets have a limit
export PATH=$VENV/bin:$PATH

HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
ADDRESS=$(srun --nodes=1 --ntasks=1 -w "$HEAD" hostname --ip-address | awk '{print $1}')
CPUS=$SLURM_CPUS_PER_TASK

# One CPU of the head's is left to the run itself, which aggregates and audits.
srun --nodes=1 --ntasks=1 --overlap -w "$HEAD" \
    ray start --head --node-ip-address="$ADDRESS" --port="$PORT" --num-cpus=$((CPUS - 1)) \
    --include-dashboard=false --disable-usage-stats --block &
sleep 20
if [ "$SLURM_NNODES" -gt 1 ]; then
    srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --overlap -x "$HEAD" \
        ray start --address="$ADDRESS:$PORT" --num-cpus="$CPUS" --disable-usage-stats --block &
    sleep 20
fi

# On the head, where Ray's control service is. The job, and with it Ray, ends when this does.
srun --nodes=1 --ntasks=1 --overlap -w "$HEAD" \
    fedmem run "$CONFIG" engine.kind=ray "engine.address=$ADDRESS:$PORT" "${@:2}"
