"""What is measured, drawn: figures, words and one self-contained page."""
