"""How fast a graph is: in turns with a baseline, on random models of any shape, on real text."""
