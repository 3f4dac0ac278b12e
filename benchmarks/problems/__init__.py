"""What is measured on: shapes, lengths and numbers, and the true answers."""
