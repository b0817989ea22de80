"""Benchmarks against the plain scripts that people would write. Run by `make bench`; not timed tests."""
