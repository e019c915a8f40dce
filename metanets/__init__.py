"""Networks that eat weights: graph metanetworks, equivariant layers and embeddings (none registered yet)."""
