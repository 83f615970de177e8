"""Every reader under mutated input: `python -m test.fuzz TARGET -n 10000`."""
