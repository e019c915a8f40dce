"""What singular values say of a layer: norms, ranks, tails, and what chance would have made."""
