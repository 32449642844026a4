"""Measures kvmxen's costs. `make bench` runs everything and writes docs/performance.md's tables."""
