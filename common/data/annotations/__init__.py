"""Annotations of labelling tools made label files: one module per tool, and ``convert.py``, which writes what they give."""
