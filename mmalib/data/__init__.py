"""Text: the corpora, the generated sample, and words cut into windows of subwords."""

LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
