"""What networks compute on data: similarity of activations, convergent units, neural collapse, dimension, the loss around."""
