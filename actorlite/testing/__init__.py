"""Public testing kit: sessions for tests, the conformance suite of transports, faults. The fixtures are in `plugin`."""

from actorlite.resources import NodeResources
from actorlite.testing.cluster import Cluster, ClusterNode, cluster, local_cluster
from actorlite.testing.daemons import DaemonCluster, daemons
from actorlite.testing.faults import Faults, FaultyTransport
from actorlite.testing.leaks import LeakError
from actorlite.testing.transport import CHECKS, STREAM_CHECKS, Recorder, check_transport, run_check

__all__ = [
    "CHECKS",
    "STREAM_CHECKS",
    "Cluster",
    "ClusterNode",
    "DaemonCluster",
    "Faults",
    "FaultyTransport",
    "LeakError",
    "NodeResources",
    "Recorder",
    "check_transport",
    "cluster",
    "daemons",
    "local_cluster",
    "run_check",
]
