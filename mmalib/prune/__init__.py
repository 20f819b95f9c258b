"""What goes out of a model: weights by masks, schedules and criteria; heads, neurons, layers, subwords."""
