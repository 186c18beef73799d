"""A model and the oracle on parts of one trajectory: switching, landing, forward-backward."""
