"""What hypernetworks are made of: their base, codes of conditions, encoders, first values, and learning one task after another."""
