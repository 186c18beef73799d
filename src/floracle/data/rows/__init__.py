"""Rows in files: read by position, in pieces, and refused where a file changed."""
