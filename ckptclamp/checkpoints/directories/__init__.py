"""What lies in a directory beside the weights: links of a cache, other files, unfinished work."""
