#!/usr/bin/env bash
# A recipe on a Slurm cluster of GPU machines, one process a GPU:
#     sbatch --nodes 8 launch/slurm.sh mome_pretrain RUN --config.init_from=DIR --config.data.path=...
# RUN has to lie where every machine sees it. Slurm's SIGTERM before the time limit, or before a
# preemption, ends the run at a checkpoint, and the job is put into the queue again; so it is where a
# machine fails. Set the partition and the environment to activate for your cluster.
#SBATCH --job-name=latentum
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
set -euo pipefail
recipe=${1:?usage: sbatch launch/slurm.sh RECIPE RUN [--config.KEY=VALUE ...]}
run=${2:?usage: sbatch launch/slurm.sh RECIPE RUN [--config.KEY=VALUE ...]}
shift 2

# A failed process ends all of them: what is left of a run waits for the lost one for ever.
status=0
srun --kill-on-bad-exit=1 latentum train --config "$recipe" --workdir "$run" \
  --coordinator auto "$@" || status=$?
if [ "$status" -ne 0 ] && [ "$status" -ne 2 ]; then # 2: a mistake that would come again
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
