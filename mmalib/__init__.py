"""Helper package of the notebooks: what happens to unseen languages when a multilingual encoder is made fast."""

__version__ = "0.1.0"
