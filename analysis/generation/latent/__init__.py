"""Models of weights as vectors: standardised, reduced, encoded, and diffused."""
