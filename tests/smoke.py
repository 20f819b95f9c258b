"""The sizes at which tests run a study: every line of the notebooks in seconds. Its numbers mean nothing."""

from pathlib import Path

from mmalib.profiles import load_profile

FILE = Path(__file__).with_name("smoke.json")
SMOKE = load_profile(str(FILE))
