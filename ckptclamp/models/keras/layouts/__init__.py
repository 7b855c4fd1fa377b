"""Where each generation of Keras stores the variables of its layers."""
