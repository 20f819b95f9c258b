"""Encoders: where they come from, how they are tuned and taught, how good they are, a model in a folder and back."""
