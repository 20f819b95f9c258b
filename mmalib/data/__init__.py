"""Text: the corpora, the generated sample, and words cut into windows of subwords."""
