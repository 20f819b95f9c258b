"""Magnitude: small weights go (Han et al. 2015; globally and gradually as in Zhu and Gupta 2017).

The score of a weight is |w|, that of a block the sum over its weights. A pruned weight is 0 and stays pruned.
"""

from transformers import PreTrainedModel

from mmalib.prune.sparsity import Criterion, Masks, Scores, per_block, weights


def criterion() -> Criterion:
    """Weighs every unit by its absolute value."""
    return Criterion("magnitude", scores)


def scores(model: PreTrainedModel, pattern: str, masks: Masks) -> Scores:
    """|w|, summed over each block."""
    return {name: per_block(weight.detach().abs(), pattern) for name, weight in weights(model).items()}
