"""Rules and declared constraints matched with tensors: what will be judged, and what cannot be."""
