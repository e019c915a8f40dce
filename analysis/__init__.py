"""Questions asked of weights: matching, connectivity, spectra, merging, generation and stitching (none registered yet)."""
