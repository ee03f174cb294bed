#!/usr/bin/env bash
# Hosts for the nodes of a virtual cluster: a network namespace each, joined by a bridge, so that a link can be cut, or a wall
# be built that only SLURM passes, as a firewall does on clusters where nobody ran a job on several nodes before.
#
#   hosts.sh up NODES      makes namespaces phalanx0, phalanx1, ... at 10.77.0.10, .11, ...; this machine is 10.77.0.1
#   hosts.sh cut NODE      takes the link of a node down; hosts.sh mend NODE puts it up again
#   hosts.sh wall FROM TO  ranks on node FROM can open no connection to node TO; SLURM's daemons and srun can
#   hosts.sh down          removes all of it, walls too
#
# NAMESPACES=1 start.sh DIR then starts node0 in phalanx0, and so on. Needs root, iproute2, and iptables for a wall.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
BRIDGE=phalanx-bridge

down() {
  local name
  for name in $(ip netns list 2>/dev/null | sed -n 's/^\(phalanx[0-9]\+\).*/\1/p'); do
    ip netns del "$name"
  done
  ! ip link show "$BRIDGE" >/dev/null 2>&1 || ip link del "$BRIDGE"
}

up() { # NODES
  local node
  down
  ip link add "$BRIDGE" type bridge
  ip addr add 10.77.0.1/24 dev "$BRIDGE"
  ip link set "$BRIDGE" up
  for ((node = 0; node < $1; node++)); do
    ip netns add "phalanx$node"
    ip link add "phalanx-link$node" type veth peer name eth0 netns "phalanx$node"
    ip link set "phalanx-link$node" master "$BRIDGE" up
    ip -n "phalanx$node" addr add "10.77.0.$((10 + node))/24" dev eth0
    ip -n "phalanx$node" link set eth0 up
    ip -n "phalanx$node" link set lo up
  done # and no way out: what asks for a name outside hears at once that there is none, instead of waiting 10 s for it
}

wall() { # FROM TO
  # Ranks listen on ports that the kernel chooses, SLURM on those of slurm.conf, which start.sh takes from below them. Without
  # a word back, as firewalls do it; connections from the other side stay possible.
  local ports
  ports=$(ip netns exec "phalanx$1" cat /proc/sys/net/ipv4/ip_local_port_range)
  ip netns exec "phalanx$1" iptables --append OUTPUT --protocol tcp --syn --destination "10.77.0.$((10 + $2))" \
    --match tcp --destination-port "${ports/[[:space:]]/:}" --jump DROP
}

case "${1:-} $#" in
  "up 2") up "$2" ;;
  "cut 2") ip link set "phalanx-link$2" down ;;
  "mend 2") ip link set "phalanx-link$2" up ;;
  "wall 3") wall "$2" "$3" ;;
  "down 1") down ;;
  *)
    echo "hosts.sh: usage: hosts.sh up NODES | cut NODE | mend NODE | wall FROM TO | down" >&2
    exit 2
    ;;
esac
