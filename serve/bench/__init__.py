"""Benchmarks against a running Rayllama; they print figures and compare in one run."""
