"""The checks of ``scripts/first_light.py``: each is a function of a ``Bench``, and adds rows to its report."""
