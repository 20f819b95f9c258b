"""How the backbones in `mmalib/weights` were made: read, cut, shrink.

The room of `notebooks/00_backbones.ipynb`; of the study, only pruning upstream (notebook 08) learns as here.
"""
