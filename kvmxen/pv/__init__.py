"""A PV guest: its kernel runs in ring 3, and kvmxen does what it cannot do there."""
