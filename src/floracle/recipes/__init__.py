"""Figures and tables of the paper, each computed and drawn apart: one small file per item."""
