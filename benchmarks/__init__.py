"""Benchmarks, run from the repository's root; `make bench` runs them all."""
