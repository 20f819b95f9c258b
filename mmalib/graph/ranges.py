"""Ranges of activations without training: calibration on text, or on nothing but random subwords.

Three methods, all of onnxruntime.quantization: `minmax` keeps everything seen; `percentile` cuts the share of values
that is furthest out; `entropy` cuts where the histogram loses least, in the sense of Kullback and Leibler, when it is
reduced to 128 levels (Migacz 2017, 8-bit inference with TensorRT).

Rows run in batches of one length, so that no padding is counted.
"""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, create_calibrator
from transformers import PreTrainedTokenizerFast

from mmalib.data.subwords import encode
from mmalib.graph.export import GRAPH
from mmalib.graph.trace import INPUTS, matmuls

# Each with its settings. With the library's default of 128 bins for 128 levels, entropy would have one candidate, the
# whole range: no calibration at all. A percentile is the share of values, in percent, that a range holds.
METHODS = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 512, "num_quantized_bins": 128}),
    "percentile": (CalibrationMethod.Percentile, {"num_bins": 2048, "percentile": 99.99}),
}
BATCH = 16  # rows


def calibrate(folder: Path, rows: Sequence[list[int]], *, method: str = "minmax") -> dict[str, tuple[float, float]]:
    """Lowest and highest value of the inputs and outputs of the encoder's linear maps, over these rows of subwords.

    `folder` is an exported float model.
    """
    if method not in METHODS:
        raise ValueError(f"There is no calibration method '{method}'. Choose one of: {', '.join(METHODS)}.")
    if not rows:
        raise ValueError("There is nothing to calibrate on. Give rows of subwords: sentence_rows or random_rows.")
    maps = matmuls(onnx.load(Path(folder) / GRAPH).graph).values()
    wanted = {tensor for node in maps for tensor in (node.input[0], node.output[0])}
    # The calibrator writes beside the model and prints what it does.
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        copied = Path(shutil.copy2(Path(folder) / GRAPH, scratch))
        where, (how, options) = str(copied.with_name("augmented.onnx")), METHODS[method]
        calibrator = create_calibrator(copied, ["MatMul"], where, calibrate_method=how, extra_options=options)
        for batch in _batches(rows):
            # One batch at a time: all the activations of all batches at once would not fit into memory.
            calibrator.collect_data(SimpleNamespace(get_next=iter([batch, None]).__next__))  # all it asks of a reader
        seen = calibrator.compute_data()
    return {name: tuple(np.asarray(end).item() for end in seen[name].range_value) for name in sorted(wanted)}


def sentence_rows(
    sentences: Sequence[list[str]], tokenizer: PreTrainedTokenizerFast, max_length: int
) -> list[list[int]]:
    """Sentences (lists of words) as rows of subwords with the special tokens."""
    return [window.ids for window in encode(sentences, tokenizer, max_length).windows]


def random_rows(
    tokenizer: PreTrainedTokenizerFast, *, number: int, length: int, vocabulary: int | None = None, seed: int = 0
) -> list[list[int]]:
    """Rows of random subwords between the special tokens: calibration for those who have no text at all."""
    special = set(tokenizer.all_special_ids)
    usable = [token for token in range(vocabulary or len(tokenizer)) if token not in special]
    inner = np.random.default_rng(seed).choice(usable, size=(number, length - 2)).tolist()
    return [[tokenizer.cls_token_id, *row, tokenizer.sep_token_id] for row in inner]


def _batches(rows: Sequence[list[int]]) -> Iterator[dict[str, np.ndarray]]:
    """Rows of one length together, the largest first: the first batch sets the width of the histograms' bins."""
    groups: dict[int, list[list[int]]] = {}
    for row in rows:
        groups.setdefault(len(row), []).append(row)
    batches = [np.array(same[at : at + BATCH]) for same in groups.values() for at in range(0, len(same), BATCH)]
    for ids in sorted(batches, key=np.size, reverse=True):
        yield dict(zip(INPUTS, (ids, np.ones_like(ids)), strict=True))
