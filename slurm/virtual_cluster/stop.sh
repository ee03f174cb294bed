#!/usr/bin/env bash
# stop.sh DIR: ends the jobs and the daemons of the virtual cluster that start.sh DIR started. Its files stay.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
PATIENCE_S=10

wait_until() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

# Processes are known by their environment, where all of this cluster's have its SLURM_CONF. A file with a process id may
# be stale, and name somebody else's process.
daemons() { # NAME
  local pid
  for pid in $(pgrep --exact "$1"); do
    ! grep -qzxF "SLURM_CONF=$SLURM_CONF" "/proc/$pid/environ" 2>/dev/null || echo "$pid"
  done
}

# Processes of jobs, whatever became of their parents. Only these have a node's name, not the shell that asked for the job.
tasks() {
  local environment
  while read -r environment; do
    ! grep -qz "^SLURMD_NODENAME=" "$environment" 2>/dev/null || echo "${environment//[^0-9]/}"
  done < <(grep -lzxF "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ 2>/dev/null)
}

none_runs() { [[ -z $(daemons "$1") ]]; }

no_jobs() { [[ -z $(timeout 5 squeue --noheader) ]]; }

send() { # SIGNAL PID...
  [[ $# == 1 ]] || kill -s "$@" 2>/dev/null || true # some may have ended by themselves
}

end_jobs() {
  local jobs
  mapfile -t jobs < <(timeout 5 squeue --noheader --format %A | sort --unique)
  [[ ${#jobs[@]} != 0 ]] || return 0
  timeout 10 scancel --quiet "${jobs[@]}" || true
  kill_tasks # or they would have half a minute to save a checkpoint
  wait_until "$PATIENCE_S" no_jobs || true
}

kill_tasks() {
  local pids
  mapfile -t pids < <(tasks)
  send KILL "${pids[@]}"
}

end_daemons() { # NAME
  local pids
  mapfile -t pids < <(daemons "$1")
  send TERM "${pids[@]}"
  wait_until "$PATIENCE_S" none_runs "$1" || send KILL "${pids[@]}"
}

if [[ $# != 1 || $1 == -* ]]; then
  echo "stop.sh: usage: stop.sh DIR" >&2
  exit 2
fi
DIR=$(realpath --canonicalize-missing "$1")
if [[ ! -e $DIR/.virtual_cluster ]]; then
  echo "stop.sh: $DIR is not a directory that start.sh made" >&2 # and a real cluster's daemons are not ours to end
  exit 2
fi
export SLURM_CONF=$DIR/etc/slurm.conf

none_runs slurmctld || end_jobs
# Where a daemon was killed, steps are left that nobody else ends.
kill_tasks
mapfile -t steps < <(daemons slurmstepd)
send KILL "${steps[@]}"
for name in slurmctld slurmd slurmdbd mariadbd munged; do
  end_daemons "$name"
done
