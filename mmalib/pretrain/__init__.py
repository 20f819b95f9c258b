"""How the backbones in `mmalib/weights` were made: read, cut, shrink.

The room of `notebooks/00_backbones.ipynb`; nothing in the study imports it.
"""
