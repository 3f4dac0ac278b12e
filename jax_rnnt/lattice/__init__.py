"""From arcs to the cost: knows time and label sequences, knows no V."""
