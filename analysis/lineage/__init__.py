"""Who descends from whom: evidence between models, and the tree that it makes."""
