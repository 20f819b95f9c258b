"""What happens to unseen languages when a multilingual encoder is made fast; and `NER`, the models that came of it."""

import importlib

__version__ = "0.1.0"
_FROM = {"NER": "mmalib.use.ner", "show": "mmalib.use.show"}  # imported when asked for


def __getattr__(name: str):
    if name not in _FROM:
        raise AttributeError(f"module 'mmalib' has no attribute '{name}'")
    return getattr(importlib.import_module(_FROM[name]), name)
