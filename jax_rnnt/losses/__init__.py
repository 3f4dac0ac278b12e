"""The losses that users call: each computes rows, then a lattice."""
