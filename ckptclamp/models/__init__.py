"""How models store weights: which tensors together stand for one that is computed of them."""
