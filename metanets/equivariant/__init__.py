"""Equivariant linear layers: the basis that a spec implies, and layers, chains and stacks made of it."""
