"""What kvmxen costs. `make bench` runs all of it and writes the tables of docs/performance.md."""
