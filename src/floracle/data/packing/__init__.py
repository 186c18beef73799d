"""Writing and checking packed stores."""
