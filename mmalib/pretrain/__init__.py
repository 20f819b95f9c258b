"""How the small backbones in `mmalib/weights` were made.

Text → vocabulary → transplant → MLM and TLM → students.
The room of `notebooks/00_backbones.ipynb`; nothing in the study imports it.
"""
