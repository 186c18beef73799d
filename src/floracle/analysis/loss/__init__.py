"""The oracle loss of models, and the loss on held-out data."""
