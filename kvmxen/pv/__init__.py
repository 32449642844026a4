"""A PV guest: its kernel runs in ring 3, and what it cannot do there is done for it."""
