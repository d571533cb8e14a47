"""Cryptographic protocols between the parties of a backend."""
