"""What a user calls: rows, then a lattice."""
