"""Text: the corpora, the generated sample, and words cut into windows of subwords."""

from collections.abc import Sequence

LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]


def named(labels: Sequence[str]) -> dict:
    """Labels as a model's config has them."""
    numbers = {label: number for number, label in enumerate(labels)}
    return {"num_labels": len(labels), "id2label": dict(enumerate(labels)), "label2id": numbers}


NAMED_LABELS = named(LABELS)
