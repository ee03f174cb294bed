#!/usr/bin/env bash
# A real SLURM of virtual nodes with fake GPUs on this one machine, to try and to test on.
#
#   start.sh DIR [NODES=2] [CPUS=4] [GPUS=2]   starts it and prints `export SLURM_CONF=...`: eval "$(start.sh DIR)"
#   start.sh --check                           only says whether it can run here
#
# All its files lie in DIR: configuration, keys, sockets, state, logs, process ids. stop.sh DIR ends it; start.sh DIR ends
# it too and begins afresh. Jobs go to the partition `low`, unless they ask for `high`: those preempt and requeue the others.
#
# Environment:
#   BASE_PORT=N    first of the NODES + 2 TCP ports that it listens on; if not given, some that are free
#   ACCOUNTING=1   a real slurmdbd on a private MariaDB too, so that sacct answers
#   NAMESPACES=1   each node in a network namespace of its own, which hosts.sh made
#
# Exit codes: 0 it runs, 1 it did not start (and nothing is left running), 2 it cannot run here, or not with these arguments.
set -euo pipefail

HERE=$(dirname "$(realpath "$0")")
PATH=$PATH:/usr/sbin:/sbin # where the daemons are; not every root shell looks there
ACCOUNTING=${ACCOUNTING:-0}
NAMESPACES=${NAMESPACES:-0}
START_TIMEOUT_S=30

refuse() {
  echo "start.sh: $*" >&2
  exit 2
}

check_machine() {
  local package program
  local -A programs=([munge]=munged [slurm-wlm]="slurmctld slurmd srun")
  if [[ $ACCOUNTING == 1 ]]; then
    programs+=([slurmdbd]=slurmdbd [mariadb-server]="mariadbd mariadb-install-db mariadb-admin")
  fi
  for package in "${!programs[@]}"; do
    for program in ${programs[$package]}; do
      command -v "$program" >/dev/null || refuse "$program is not installed; apt-get install ${!programs[*]}"
    done
  done
  [[ $EUID == 0 ]] || refuse "only root can start a virtual SLURM, and this is user $(id -un)"
}

check_arguments() {
  local number
  for number in "$NODES" "$CPUS" "$GPUS"; do
    [[ $number =~ ^(0|[1-9][0-9]{0,2})$ ]] || refuse "'$number' is not a number of nodes, CPUs or GPUs"
  done
  ((NODES > 0 && CPUS > 0)) || refuse "a cluster needs at least one node and one CPU"
  [[ ${BASE_PORT:-1024} =~ ^[1-9][0-9]{3,4}$ ]] || refuse "BASE_PORT='$BASE_PORT' is not a port number from 1024 on"
  # slurm.conf splits at these characters, and a socket's path has at most 107 bytes.
  [[ ! $DIR =~ [][:space:],=#\"\[] && ${#DIR} -le 70 ]] || refuse "'$DIR' is longer than 70 characters (a socket's name in it has at most 107) or has odd ones in it"
}

prepare_directory() {
  if [[ -e $DIR/.virtual_cluster ]]; then
    bash "$HERE/stop.sh" "$DIR"
    rm -rf "${DIR:?}"/{etc,run,log,state,spool,dev,munge,database}
  elif [[ -e $DIR && -n $(ls -A "$DIR") ]]; then
    refuse "$DIR holds something else; give a directory that is empty or not there"
  fi
  mkdir --parents "$DIR"/{etc,run,log,state,spool,dev,munge}
  touch "$DIR/.virtual_cluster"
}

wait_until() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

# --- ports: BASE_PORT for slurmctld, the next for slurmdbd, then one a node

is_listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

ports_are_free() { # FIRST
  local port
  for ((port = $1; port < $1 + NODES + 2; port++)); do
    ! is_listening "$port" || return 1
  done
}

choose_ports() {
  local _
  if [[ -n ${BASE_PORT:-} ]]; then
    ports_are_free "$BASE_PORT" || refuse "not all of the $((NODES + 2)) ports from BASE_PORT=$BASE_PORT are free"
    return
  fi
  for _ in {1..20}; do
    # At random, so that clusters started at the same time differ; below the ports that the kernel gives to clients.
    BASE_PORT=$((20000 + RANDOM % 10000))
    ! ports_are_free "$BASE_PORT" || return 0
  done
  refuse "found no $((NODES + 2)) free ports in a row; set BASE_PORT"
}

# --- configuration

write_slurm_conf() {
  local last=$((NODES - 1)) host gres="" accounting="" controller=127.0.0.1 addresses=127.0.0.1 hosts="" held=5
  host=$(hostname -s)
  if [[ $NAMESPACES == 1 ]]; then
    # srun listens below the ports that the kernel chooses, so that `hosts.sh wall` can tell it from ranks. A host that was out
    # of reach gets the order to end its part of a job up to a minute later, and a job that was requeued must not run by then.
    controller=10.77.0.1 addresses="10.77.0.[10-$((10 + last))]" hosts="SrunPortRange=31000-31999" held=75
  fi
  [[ $GPUS == 0 ]] || gres="Gres=gpu:$GPUS"
  [[ $ACCOUNTING != 1 ]] || accounting="
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((BASE_PORT + 1))
AccountingStoragePass=$DIR/run/munge.socket"
  cat >"$SLURM_CONF" <<CONF
ClusterName=virtual
SlurmctldHost=$host($controller)
SlurmctldPort=$BASE_PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job is held for the lifetime of a credential: a few seconds instead of 2 minutes.
AuthInfo=socket=$DIR/run/munge.socket,cred_expire=$held
$hosts
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd-%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
$accounting

# Without cgroups, which a container seldom has: processes are followed by their parents, memory is sampled.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill,UsePss
PropagateResourceLimits=NONE

# Jobs start at once instead of at the scheduler's next round, and a lost node is noticed in seconds.
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=0
SlurmdTimeout=20
ReturnToService=2
# Finished jobs stay visible for two hours, for there may be no accounting to ask.
MinJobAge=7200
JobCompType=jobcomp/filetxt
JobCompLoc=$DIR/log/finished_jobs.log

SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=4000
GresTypes=gpu
# The nodes are as large as this file says, whatever the machine has.
SlurmdParameters=config_overrides
NodeName=node[0-$last] NodeHostname=$host NodeAddr=$addresses Port=[$((BASE_PORT + 2))-$((BASE_PORT + 2 + last))] \
CPUs=$CPUS RealMemory=$((CPUS * 4000)) $gres State=UNKNOWN

PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
CONF
}

write_gres_conf() {
  local gpu last=$((GPUS - 1))
  : >"$DIR/etc/gres.conf"
  [[ $GPUS != 0 ]] || return 0
  for ((gpu = 0; gpu < GPUS; gpu++)); do
    ln -sfn /dev/null "$DIR/dev/nvidia$gpu" # SLURM wants a character device, and takes the GPU's number from its name
  done
  echo "NodeName=node[0-$((NODES - 1))] Name=gpu File=$DIR/dev/nvidia[0-$last]" >"$DIR/etc/gres.conf"
}

write_slurmdbd_conf() {
  cat >"$DIR/etc/slurmdbd.conf" <<CONF
DbdHost=localhost
DbdPort=$((BASE_PORT + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/run/munge.socket
LogFile=$DIR/log/slurmdbd.log
PidFile=$DIR/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
CONF
}

write_configuration() {
  write_slurm_conf
  write_gres_conf
  # Nothing uses cgroups, but without this line slurmd looks for them and ends where none are mounted.
  echo "CgroupPlugin=cgroup/v1" >"$DIR/etc/cgroup.conf"
  [[ $ACCOUNTING != 1 ]] || write_slurmdbd_conf
}

# --- daemons: each puts itself into the background. SLURM_CONF in its environment is how stop.sh knows it as this cluster's.

start_munge() {
  head --bytes 1024 /dev/urandom >"$DIR/munge/key"
  # --force: munged would rather have everybody reach its socket, but here root alone uses it.
  munged --force --socket="$DIR/run/munge.socket" --pid-file="$DIR/run/munged.pid" --key-file="$DIR/munge/key" \
    --seed-file="$DIR/munge/seed" --log-file="$DIR/log/munged.log" 2>>"$DIR/log/munged.log"
}

start_accounting() {
  local socket=$DIR/run/mariadb.socket
  mariadb-install-db --no-defaults --user=root --datadir="$DIR/database" >"$DIR/log/mariadb-install.log" 2>&1
  # No network and no passwords: only root can reach the socket. The small log file is quick to create.
  setsid mariadbd --no-defaults --user=root --datadir="$DIR/database" --socket="$socket" --pid-file="$DIR/run/mariadbd.pid" \
    --skip-networking --skip-grant-tables --innodb-log-file-size=16M >"$DIR/log/mariadbd.log" 2>&1 </dev/null &
  wait_until "$START_TIMEOUT_S" mariadb-admin --no-defaults --socket="$socket" status >/dev/null 2>&1
  MYSQL_UNIX_PORT=$socket slurmdbd
  wait_until "$START_TIMEOUT_S" is_listening $((BASE_PORT + 1))
}

start_node() { # NODE
  if [[ $NAMESPACES == 1 ]]; then
    ip netns exec "phalanx$1" slurmd -N "node$1"
  else
    slurmd -N "node$1"
  fi
}

start_slurm() {
  local node
  slurmctld
  for ((node = 0; node < NODES; node++)); do
    start_node "$node"
  done
  wait_until "$START_TIMEOUT_S" is_listening "$BASE_PORT"
  wait_until "$START_TIMEOUT_S" all_nodes_idle
}

all_nodes_idle() {
  [[ $(sinfo --noheader --Node --partition low --states idle --format %N 2>/dev/null | wc --lines) == "$NODES" ]]
}

clean_up_after_failure() {
  local status=$?
  [[ $status != 0 ]] || return 0
  if [[ $status != 2 ]]; then
    echo "start.sh: the cluster did not start; the last lines of its logs:" >&2
    tail --lines 10 "$DIR"/log/*.log >&2 || true
  fi
  bash "$HERE/stop.sh" "$DIR"
  exit "$status"
}

if [[ $# == 1 && $1 == --check ]]; then
  check_machine
  exit
fi
[[ $# -ge 1 && $# -le 4 && $1 != -* ]] || refuse "usage: start.sh DIR [NODES=2] [CPUS=4] [GPUS=2], or start.sh --check"
DIR=$(realpath --canonicalize-missing "$1") NODES=${2:-2} CPUS=${3:-4} GPUS=${4:-2}
check_machine
check_arguments
export SLURM_CONF=$DIR/etc/slurm.conf

umask 077
prepare_directory
trap clean_up_after_failure EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
choose_ports
write_configuration
start_munge
[[ $ACCOUNTING != 1 ]] || start_accounting
start_slurm
echo "export SLURM_CONF=$SLURM_CONF"
