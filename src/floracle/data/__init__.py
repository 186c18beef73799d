"""Where points come from: one file per layout, and the store that serves them all."""
