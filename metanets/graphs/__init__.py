"""Networks as graphs: a node for each neuron, an edge for each weight, and one way to pass messages over both paths."""
