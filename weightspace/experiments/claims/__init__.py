"""The claims that can be tried here, one file each: small experiments with their null or baseline, over some seeds."""
