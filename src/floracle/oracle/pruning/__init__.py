"""Pruning with a certificate: points whose weight is below a bound are never read."""
