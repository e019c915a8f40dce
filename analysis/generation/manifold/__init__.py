"""A trained network as a smooth function of coordinates: what neural metamorphosis is made of."""
