"""Closed-form fields that know less than the oracle: Gaussians, patches."""
