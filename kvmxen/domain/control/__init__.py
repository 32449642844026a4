"""The control socket, both ends: other processes' requests to a running domain."""
