"""A model and the oracle on pieces of one trajectory: switching, landing, going on."""
