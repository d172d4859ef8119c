"""The networks on which a projection runs: a word and, if you like, SimGrid's own parameters; written as a platform.

star                 every node has a link of its own to one switch that is never the limit
fat-tree             switches of 64 ports: 32 down and 32 up, in as many levels as it takes
fat-tree:4           the same, but a node's switch has a fourth of its links upwards
dragonfly            groups as in Cray's Cascade [Faanes et al. 2012]: 4 nodes a router, 16 routers a chassis,
                     6 chassis a group; between two groups as many links as one's 960 allow
torus                three dimensions that are as alike as can be
fat-tree:2;16,16;1,4;1,1    SimGrid's topo_parameters, of dragonfly and torus, too
"""

import math
from dataclasses import dataclass

from mpisign.errors import UsageError, choices

PORTS = 32  # of a switch of a fat tree, down, and up where nothing is saved
NODES, ROUTERS, CHASSIS, OPTICAL = 4, 16, 6, 10  # of a router, a chassis, a group; a router's links to other groups
BLACK = 3  # links between the routers of two chassis that have the same place
KINDS = ("star", "fat-tree", "dragonfly", "torus")
INNER_BANDWIDTH, INNER_LATENCY = 1e10, 5e-7  # of messages within a node, bytes per second and seconds
HEAD = """<?xml version="1.0"?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <zone id="world" routing="Full">
"""
TAIL = """  </zone>
</platform>
"""


@dataclass(frozen=True)
class Topology:
    """hosts: that it has, of which the first are used. parameters: as SimGrid takes them, "" for a star."""

    kind: str
    parameters: str
    hosts: int

    def platform(self, bandwidth: float, latency: float, slower: float = 1.0) -> str:
        """SimGrid's platform file.

        bandwidth: of each link and direction, bytes per second. latency: of each link, seconds. slower: by which all
        of it is, so that SimGrid's microseconds tell more.
        """
        shape = f' topology="{self.kind.upper().replace("-", "_")}" topo_parameters="{self.parameters}"'
        lines = (
            f'id="cluster" prefix="node-" radical="0-{self.hosts - 1}" suffix="" speed="1Gf"',
            f'bw="{bandwidth / slower:.9g}Bps" lat="{latency * slower:.9g}s" sharing_policy="SPLITDUPLEX"',
            f'loopback_bw="{INNER_BANDWIDTH / slower:.9g}Bps" loopback_lat="{INNER_LATENCY * slower:.9g}s"',
        )
        return f"{HEAD}    <cluster {f'{chr(10)}      '.join(lines)}{shape if self.parameters else ''}/>\n{TAIL}"


def topology(text: str, nodes: int) -> Topology:
    """The network of that name for so many nodes.

    Raises UsageError for a name, a parameter or a number of nodes that can't be.
    """
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        raise UsageError(f"--topology {text}: use one of: {choices(KINDS)}, or fat-tree:4 (4:1 oversubscribed)")
    if rest and (";" in rest or kind in ("torus", "dragonfly")):
        return _given(text, kind, rest, nodes)
    if kind == "fat-tree":
        return _fat_tree(text, rest or "1", nodes)
    if rest:
        raise UsageError(f"--topology {text}: a star takes no parameters; leave out :{rest}")
    return {"star": _star, "dragonfly": _dragonfly, "torus": _torus}[kind](nodes)


def _given(text: str, kind: str, parameters: str, nodes: int) -> Topology:
    """By SimGrid's own parameters."""
    try:
        parts = [[int(number) for number in part.split(",")] for part in parameters.split(";")]
        if min(map(min, parts)) < 1:
            raise ValueError
        hosts = {"fat-tree": _fat_tree_hosts, "dragonfly": _dragonfly_hosts, "torus": _torus_hosts}[kind](parts)
    except (KeyError, ValueError, IndexError):
        known = '"fat-tree:2;16,16;1,4;1,1" (levels; down; up; links), "dragonfly:2,8;1,1;8,1;4" (groups, chassis, '
        raise UsageError(
            f"--topology {text}: not as SimGrid's topo_parameters are: {known}routers, nodes; links after the comma), "
            '"torus:8,8,8"'
        ) from None
    if hosts < nodes:
        raise UsageError(f"--topology {text}: it has {hosts:,} nodes, and --nodes asks for {nodes:,}; make it larger")
    return Topology(kind, parameters, hosts)


def _fat_tree_hosts(parts: list[list[int]]) -> int:
    (levels,), down, up, links = parts
    if not levels == len(down) == len(up) == len(links):
        raise ValueError
    return math.prod(down)


def _dragonfly_hosts(parts: list[list[int]]) -> int:
    (groups, _), (chassis, _), (routers, _), (nodes,) = parts
    return groups * chassis * routers * nodes


def _torus_hosts(parts: list[list[int]]) -> int:
    (sides,) = parts
    return math.prod(sides)


def _star(nodes: int) -> Topology:
    return Topology("star", "", nodes)


def _fat_tree(text: str, saved: str, nodes: int) -> Topology:
    """Leaf switches with fewer links up than down where it is oversubscribed; all others have as many."""
    divisors = [str(k) for k in range(1, PORTS + 1) if PORTS % k == 0]
    if saved not in divisors:
        raise UsageError(f"--topology {text}: oversubscribed by one of {', '.join(divisors)}, as in fat-tree:4")
    down, up = [PORTS], [1]
    while math.prod(down) < nodes:
        up.append(PORTS // int(saved) if len(down) == 1 else PORTS)
        down.append(PORTS)
    # of the highest switches only as many ports are used as there are switches below
    down[-1] = -(-nodes // math.prod(down[:-1]))
    levels = len(down)
    numbers = (",".join(map(str, row)) for row in (down, up, [1] * levels))
    return Topology("fat-tree", f"{levels};" + ";".join(numbers), math.prod(down))


def _dragonfly(nodes: int) -> Topology:
    groups = -(-nodes // (NODES * ROUTERS * CHASSIS))
    chassis = CHASSIS if groups > 1 else -(-nodes // (NODES * ROUTERS))
    routers = ROUTERS if chassis > 1 else -(-nodes // NODES)
    if groups > ROUTERS * CHASSIS:
        raise UsageError(
            f"--topology dragonfly: {nodes:,} nodes are {groups} groups, and SimGrid joins {ROUTERS * CHASSIS} of "
            "such at most; give its parameters, with larger groups"
        )
    between = max(1, OPTICAL * ROUTERS * CHASSIS // (groups - 1)) if groups > 1 else 1
    return Topology(
        "dragonfly", f"{groups},{between};{chassis},{BLACK};{routers},1;{NODES}", groups * chassis * routers * NODES
    )


def _torus(nodes: int) -> Topology:
    x = max(round(nodes ** (1 / 3)), 1)
    y = max(round(math.sqrt(nodes / x)), 1)
    sides = (x, y, -(-nodes // (x * y)))
    return Topology("torus", ",".join(map(str, sides)), math.prod(sides))
