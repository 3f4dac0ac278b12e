"""From logits to the arcs of a cell: knows V, knows neither time nor label sequences."""
