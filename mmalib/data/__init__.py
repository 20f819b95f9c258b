"""Text: the corpora, the generated sample, plain text, and words cut into windows of subwords."""

import re
from collections.abc import Sequence

LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
# As the shared tasks' text is cut: punctuation is a word of its own, unless it is inside a word (EE.UU., 3.5, O'Neill).
LETTER = r"[\w\u0300-\u036f]"  # with the accents that stand alone in decomposed text
WORD = re.compile(rf"(?:[^\W\d_]{{1,2}}\.){{2,}}|{LETTER}+(?:[-.,'’&/]{LETTER}+)*|\S")


def named(labels: Sequence[str]) -> dict:
    """Labels as a model's config has them."""
    numbers = {label: number for number, label in enumerate(labels)}
    return {"num_labels": len(labels), "id2label": dict(enumerate(labels)), "label2id": numbers}
