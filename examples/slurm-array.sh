#!/bin/sh
# One guest for each task of a Slurm array. Everything after the script's name is kvmxen boot's:
#     sbatch --array=0-99 slurm-array.sh vmlinuz --ramdisk initrd.img --memory 512
# The results are in the folder $RESULTS, else ./results: one JSON file and one console a task.
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --output=/dev/null
#SBATCH --signal=B:TERM@60

task=$SLURM_ARRAY_JOB_ID-$SLURM_ARRAY_TASK_ID
results=${RESULTS:-results}
mkdir -p "$results"
# exec: Slurm's signals go to the guest, and the task's exit status is the guest's.
exec kvmxen boot --name "task-$task" --cmdline "console=hvc0 task=$SLURM_ARRAY_TASK_ID" \
    --console "file:$results/$task.log" --result "$results/$task.json" \
    --timeout 3600 --shutdown-timeout 20 "$@" 2>"$results/$task.err"
