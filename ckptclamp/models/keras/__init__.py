"""What a Keras model declares about its own weights, read from its config as data."""
