"""Graph hypernetworks in parts: a module as a graph of primitives, layers that read it, a decoder that turns its nodes into weights."""
