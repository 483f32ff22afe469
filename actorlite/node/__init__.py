"""The node daemon: leases, worker processes, and nothing on the path of a call."""
