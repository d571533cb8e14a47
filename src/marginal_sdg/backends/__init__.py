"""Backends: where the exact marginals live, one trust model each."""
