"""A SLURM of shell scripts: jobs are processes of this machine, files say how they stand.

A job's processes form a process group, all of which get the signals meant for the job, as SLURM
does it with control groups.
"""

from pathlib import Path

TOOLS = {
    "sbatch": r"""
number=$(($(cat number 2>/dev/null || echo 0) + 1)); echo $number > number
cp "$1" sent-$number
array=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$1")
cd "$where"
if [ -n "$array" ]; then
    for task in $(seq 0 $array); do "$here/run" ${number}_$task; done
else
    "$here/run" $number
fi
echo "Submitted batch job $number"
""",
    "run": r"""
job=$1; echo RUNNING > state-$job
number=${job%_*}; task=${job#*_}
export SLURM_JOB_ID=$number SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0
export SLURM_PROCID=0 SLURM_LOCALID=0
[ "$task" != "$job" ] && export SLURM_ARRAY_JOB_ID=$number SLURM_ARRAY_TASK_ID=$task
cd "$where"
setsid bash -c 'trap : USR2; echo $$ > "$1/group-$2"; . "$1/sent-$3"; code=$?; cd "$1"
    [ "$(cat state-$2; cat group-$2)" = "RUNNING
$$" ] && { [ $code = 0 ] && echo COMPLETED || echo FAILED; } > state-$2' \
    job "$here" $job $number </dev/null >/dev/null 2>&1 &
""",
    "srun": r"""
cd "$where"
while [ "${1#--}" != "$1" ]; do
    case $1 in --output|--error) shift 2;; *) shift;; esac
done
exec "$@" >> "$here/output" 2>&1
""",
    "sacct": r"""
[ -e no-accounting ] && { echo "Slurm accounting storage is disabled" >&2; exit 1; }
echo "JobID|State|NodeList"
for file in state-*; do echo "${file#state-}|$(cat $file)|here"; done
""",
    "squeue": r"""
for word in "$@"; do case $word in --jobs=*) job=${word#--jobs=};; esac; done
grep -q -e RUNNING -e PENDING state-$job 2>/dev/null && echo $job || true
""",
    "scancel": r"""
grep -q RUNNING state-$1 || exit 0
echo "CANCELLED by 0" > state-$1
kill -TERM -- -$(cat group-$1)
""",
    "scontrol": r"""
echo "REQUEUED" > state-$2; cd "$where"
"$here/run" $2
""",
}
HEAD = '#!/bin/bash\nwhere=$PWD; here=$(dirname "$(readlink -f "$0")"); cd "$here"\n'


def install(folder: Path) -> Path:
    """Write the commands into a folder, which goes on PATH; files of the jobs go there, too."""
    folder.mkdir()
    for name, text in TOOLS.items():
        (folder / name).write_text(HEAD + text)
        (folder / name).chmod(0o755)
    return folder
