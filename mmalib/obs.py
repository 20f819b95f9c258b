"""Second-order pruning (Kurtic et al. 2022, The Optimal BERT Surgeon): the weights go whose loss others mend best.

With g_i the gradient of the loss over mini-batch i of m, and damping lambda, the empirical Fisher is

    F = lambda I + 1/m sum_i g_i g_i^T                                         (their section 3)

in blocks of B weights that follow each other in one tensor (flattened row by row; the last block of a tensor may be
shorter), and 0 between blocks. Its inverse is found gradient by gradient (Woodbury, Sherman and Morrison):

    F^-1_0 = I / lambda,   F^-1_i = F^-1_i-1 - (F^-1_i-1 g_i)(F^-1_i-1 g_i)^T / (m + g_i^T F^-1_i-1 g_i)

`BlockInverseFisher` does several steps of it at once. To take the weights Q out costs the loss `saliency`, if all other
weights move by `update`:

    1/2 w_Q^T ([F^-1]_QQ)^-1 w_Q,          dw = -F^-1 E_Q^T ([F^-1]_QQ)^-1 w_Q

For the saliency, Q is one unit, as in the paper. For the update the paper adds up the dw of all units, as if each went
alone. Here Q is all that goes from a block, solved together: the exact minimum of the quadratic model with Q at 0.

A weight that is pruned already gets gradients of 0. Its row of F is then lambda alone, and [F^-1] over the others is
the inverse of F over the others: they are weighed, and moved, with the pruned ones held at 0.

`criterion` makes of this what `sparsity` prunes by, gradually or with `one_shot_`, where `steps` is the recomputation.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmalib import sparsity
from mmalib.backbones import IGNORED, batches
from mmalib.sparsity import Criterion, Masks, Scores, group_size, weights

WAITING = 10  # gradients taken in together: with more of them F^-1 is read less often, and more memory is needed
CHUNK, CHUNK_CPU = 8192, 256  # blocks worked on together; on a CPU as many as stay in its cache


class BlockInverseFisher:
    """F^-1 over `num_weights` weights that lie flat, in blocks; `add` takes `num_grads` gradients one by one.

    It holds a square root R of F^-1 = R R^T. F^-1 itself starts at 1/lambda = 1e7, and where gradients are near 1 the
    subtractions in float32 leave rounding errors and negative diagonals. R starts at 3e3, and R R^T is never negative.
    """

    def __init__(
        self,
        num_weights: int,
        block_size: int = 50,
        damp: float = 1e-7,
        num_grads: int = 1024,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if min(num_weights, block_size, num_grads) < 1:
            raise ValueError(
                f"num_weights is {num_weights}, block_size {block_size}, num_grads {num_grads}; each is 1 at least."
            )
        if not damp > 0:
            raise ValueError(f"damp is {damp}; the Fisher has an inverse only with a positive damping, such as 1e-7.")
        self.num_weights, self.block_size, self.num_grads = num_weights, block_size, num_grads
        self.empty = True  # whether all gradients were 0
        number = -(-num_weights // block_size)
        # [blocks, B, B]. The last block is filled up with weights without a gradient, which touch no other.
        self._root = torch.zeros(number, block_size, block_size, device=device, dtype=dtype)
        self._root.diagonal(dim1=1, dim2=2).fill_(damp**-0.5)
        self._waiting = torch.zeros(number, WAITING, block_size, device=device, dtype=dtype)
        self._number = 0  # of the gradients that wait

    @torch.no_grad()
    def add(self, grad: Tensor) -> None:
        """Take in one gradient, [num_weights]."""
        self._waiting[:, self._number] = self.in_blocks(grad)
        self._number += 1
        if self._number == WAITING:
            self._take_in()

    def diagonal(self) -> Tensor:
        """The diagonal of F^-1, [num_weights]."""
        return self.flat([root.square().sum(2) for _, root in self.chunks()])

    def multiply(self, vector: Tensor) -> Tensor:
        """F^-1 times a vector, [num_weights]."""
        rows = self.in_blocks(vector).unsqueeze(1)  # [blocks, 1, B]
        return self.flat([rows[place] @ root @ root.mT for place, root in self.chunks()])

    @property
    def blocks(self) -> Tensor:
        """F^-1 itself, [blocks, B, B]; a second copy of everything, so for small cases only."""
        return torch.cat([root @ root.mT for _, root in self.chunks()])

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """(which blocks, their R, [some, B, B]) until all blocks have come by, with every gradient taken in."""
        if self._number:
            self._take_in()
        size = CHUNK_CPU if self._root.device.type == "cpu" else CHUNK
        for start in range(0, len(self._root), size):
            yield slice(start, start + size), self._root[start : start + size]

    def in_blocks(self, vector: Tensor) -> Tensor:
        """A flat vector, [num_weights], as [blocks, B] with zeros at the end."""
        if vector.shape != (self.num_weights,):
            raise ValueError(f"A flat tensor of {self.num_weights} numbers is needed, not {list(vector.shape)}.")
        filled = functional.pad(vector.detach().to(self._root), (0, self._root[..., 0].numel() - self.num_weights))
        return filled.view(-1, self.block_size)

    def flat(self, pieces: list[Tensor]) -> Tensor:
        """The way back: what was found chunk by chunk as one flat vector."""
        return torch.cat(pieces).flatten()[: self.num_weights]

    @torch.no_grad()
    def _take_in(self) -> None:
        """The recursion for the gradients that wait: G, [number, B] in each block.

        Number by number or together, F^-1 becomes F^-1 - F^-1 G^T (m I + G F^-1 G^T)^-1 G F^-1. With V = G R / sqrt(m)
        and L the Cholesky factor of I + V V^T, a root of it is R - R V^T ((I + L) L^T)^-1 V (Andrews 1968).
        """
        number, self._number = self._number, 0  # at once, since `chunks` asks for it
        self.empty = self.empty and not self._waiting[:, :number].any()
        one = torch.eye(number, device=self._root.device, dtype=torch.float64)
        for place, root in self.chunks():
            v = self._waiting[place, :number] @ root * self.num_grads**-0.5  # [some, number, B]
            # What is as small as `number` is done in float64: it costs little and saves a digit.
            wide = v.double()
            factor = torch.linalg.cholesky(wide @ wide.mT + one)
            inner = torch.linalg.solve_triangular(factor + one, one, upper=False)
            inner = torch.linalg.solve_triangular(factor.mT, inner, upper=True)
            root.baddbmm_(root @ v.mT, (inner @ wide).to(v), alpha=-1)


@torch.no_grad()
def saliency(weight: Tensor, inverse: BlockInverseFisher, group: int = 1) -> Tensor:
    """What it costs the loss to take out every `group` of weights that lie side by side, [num_weights / group]."""
    if inverse.block_size % group or inverse.num_weights % group:
        raise ValueError(
            f"Groups of {group} do not fit {inverse.num_weights} weights in blocks of {inverse.block_size}. "
            f"Use a block size that is a multiple of {group}."
        )
    if group == 1:  # the same as below, and faster
        return inverse.flat([inverse.in_blocks(weight)]).square() / inverse.diagonal() / 2
    values, found = inverse.in_blocks(weight).unflatten(1, (-1, group)).unsqueeze(3), []  # [blocks, groups, group, 1]
    for place, root in inverse.chunks():
        rows = root.unflatten(1, (-1, group)).double()  # [some, groups, group, B]
        removed = values[place].double()
        solved = torch.cholesky_solve(removed, torch.linalg.cholesky(rows @ rows.mT))
        found.append((removed * solved).sum((2, 3)).to(values) / 2)
    return torch.cat(found).flatten()[: inverse.num_weights // group]


@torch.no_grad()
def update(weight: Tensor, inverse: BlockInverseFisher, gone: Tensor) -> Tensor:
    """The change of all weights, [num_weights], that takes those in `gone` (bool) to exactly 0, all together."""
    values, leaving, found = inverse.in_blocks(weight), inverse.in_blocks(gone).bool(), []  # [blocks, B]
    for place, root in inverse.chunks():
        # All blocks get one shape: rows outside Q become those of the unit matrix, with 0 on the right. In float64,
        # since the eigenvalues of F^-1 lie far apart and the small ones decide.
        out = leaving[place].unsqueeze(2)  # [some, B, 1]
        rows = (root * out).double()
        matrix = rows @ rows.mT + torch.diag_embed((~leaving[place]).double())
        removed = (values[place].unsqueeze(2) * out).double()
        solved = torch.cholesky_solve(removed, torch.linalg.cholesky(matrix))
        found.append(-(solved.mT @ rows).to(root) @ root.mT)  # [some, 1, B]
    return torch.where(gone, -weight, inverse.flat(found).to(weight))


def gradients(
    model: PreTrainedModel,
    rows: Sequence[Mapping],
    tokenizer: PreTrainedTokenizerFast,
    masks: Masks,
    *,
    num_grads: int = 1024,
    batch_size: int = 16,
    seed: int = 0,
) -> Iterator[dict[str, Tensor]]:
    """`num_grads` gradients of the loss over `batch_size` rows each, for the weights in `masks`, without dropout.

    Rows come in an order drawn from `seed`, anew in every round through them, so that no round repeats the batches of
    another. A weight that its mask drops has a gradient of 0. What is in `.grad` stays there.
    """
    draw = torch.Generator().manual_seed(seed)
    rounds = -(-num_grads * batch_size // len(rows))
    order = torch.cat([torch.randperm(len(rows), generator=draw) for _ in range(rounds)]).tolist()
    chosen = {name: weights(model)[name] for name in masks}
    training, frozen = model.training, [weight for weight in chosen.values() if not weight.requires_grad]
    model.eval()
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        for start in range(0, num_grads * batch_size, batch_size):
            some = [rows[index] for index in order[start : start + batch_size]]
            (batch,) = batches(some, tokenizer, batch_size)
            with torch.enable_grad():
                loss = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).loss
                if not loss.isfinite():
                    raise ValueError(f"The loss is {loss.item()}: training has diverged. Try a lower learning rate.")
                found = torch.autograd.grad(loss, list(chosen.values()))
            yield {name: gradient * masks[name] for name, gradient in zip(chosen, found, strict=True)}
    finally:
        model.train(training)
        for weight in frozen:
            weight.requires_grad_(False)


def fitted(size: int, pattern: str) -> int:
    """The block size, rounded down to a multiple of what the pattern looks at together."""
    group = group_size(pattern)
    if size < group:
        raise ValueError(f"Blocks of {size} do not fit pattern '{pattern}'. Use a block size of {group} or more.")
    return size // group * group


def check(model: PreTrainedModel, pattern: str, *, block_size: int = 50, max_gib: float = 6.0) -> None:
    """Raise, before anything is trained, where the blocks do not fit the pattern or an inverse the memory."""
    sizes = {name: weight.numel() for name, weight in weights(model).items()}
    portions(sizes, fitted(block_size, pattern), max_gib)


def portions(sizes: Mapping[str, int], block_size: int, max_gib: float) -> list[list[str]]:
    """The names in their order, in portions whose inverses in float32 take `max_gib` of memory or less."""
    found, room = [], -1.0
    for name, size in sizes.items():
        blocks = -(-size // block_size)
        need = 4 * (blocks * block_size * (block_size + WAITING) + size) / 2**30  # R, what waits, one gradient
        if need > max_gib:
            raise ValueError(
                f"The inverse Fisher of {name} alone takes {need:.2g} GiB, and max_gib is {max_gib}. "
                "Raise max_gib or make the blocks smaller."
            )
        if need > room:
            found.append([])
            room = max_gib
        found[-1].append(name)
        room -= need
    return found


def criterion(
    rows: Sequence[Mapping],
    tokenizer: PreTrainedTokenizerFast,
    *,
    block_size: int = 50,
    damp: float = 1e-7,
    num_grads: int = 1024,
    batch_size: int = 16,
    max_gib: float = 6.0,
    seed: int = 0,
) -> Criterion:
    """Second-order pruning, with gradients over `rows` (as `backbones.training_rows` makes them).

    Weights whose inverses do not fit into `max_gib` are done in portions with the same gradients, once for the scores
    and once for the update, except the last portion, which waits for its update: slower, and the same result. Besides
    there are the model, one pass backwards, and two numbers a weight.
    """
    rows = [row for row in rows if any(label != IGNORED for label in row["labels"])]
    if not rows:
        raise ValueError("No row has a label, so the loss has no gradient. Give rows of labelled sentences.")
    BlockInverseFisher(1, block_size, damp, num_grads)  # complains where these make no sense
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; a gradient needs 1 row at least.")
    drawing = {"num_grads": num_grads, "batch_size": batch_size, "seed": seed}
    inverses: dict[str, BlockInverseFisher] = {}  # of one portion at most
    plan: list[list[str]] = []  # the portions of the last scores
    size = block_size

    def invert_(model: PreTrainedModel, masks: Masks, names: list[str]) -> None:
        inverses.clear()  # before the next are made
        for name in names:
            inverses[name] = BlockInverseFisher(masks[name].numel(), size, damp, num_grads, model.device)
        for found in gradients(model, rows, tokenizer, {name: masks[name] for name in names}, **drawing):
            for name, gradient in found.items():
                inverses[name].add(gradient.flatten())

    def scores(model: PreTrainedModel, pattern: str, masks: Masks) -> Scores:
        nonlocal size
        size = fitted(block_size, pattern)
        plan[:] = portions({name: mask.numel() for name, mask in masks.items()}, size, max_gib)
        found, empty = {}, True
        for names in plan:
            invert_(model, masks, names)
            for name, inverse in inverses.items():
                weight = weights(model)[name]
                found[name] = saliency(weight.flatten(), inverse, sparsity.block_size(pattern)).view(len(weight), -1)
                empty = empty and inverse.empty
        if empty:
            raise ValueError("All gradients are 0. Check that the rows have labels that the model can learn from.")
        return found

    def prune_(model: PreTrainedModel, masks: Masks, before: Masks) -> None:
        changes = {}
        for names in reversed(plan):  # the last portion is still there
            if list(inverses) != names:
                invert_(model, before, names)
            for name, inverse in inverses.items():
                changes[name] = update(weights(model)[name].flatten(), inverse, ~masks[name].flatten())
        inverses.clear()
        # Only now, so that the gradients of every portion are those of the weights that were scored.
        with torch.no_grad():
            for name, weight in weights(model).items():
                weight += changes[name].view_as(weight)

    return Criterion("obs", scores, prune_)
