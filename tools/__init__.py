"""Programs that try the package out: see each file."""
