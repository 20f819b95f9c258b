"""The inverse of the empirical Fisher in blocks, and what it says of taking weights out (Kurtic et al. 2022).

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

Weights lie flat here, one tensor at a time; `obs` brings the model.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

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
        self._waiting = torch.empty(number, min(WAITING, num_grads), block_size, device=device, dtype=dtype)
        self._number = 0  # of the gradients that wait

    @torch.no_grad()
    def add(self, grad: Tensor) -> None:
        """Take in one gradient, [num_weights]."""
        self._waiting[:, self._number] = self.in_blocks(grad)
        self._number += 1
        if self._number == self._waiting.shape[1]:
            self._take_in()

    def diagonal(self) -> Tensor:
        """The diagonal of F^-1, [num_weights]."""
        one = self._root.new_ones(self.block_size)  # a product is many times faster than a sum over so few
        return self.flat([root.square() @ one for _, root in self.chunks()])

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """(which blocks, their R, [chunk, B, B]) until all blocks have come by, with every gradient taken in."""
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
            v = self._waiting[place, :number] @ root * self.num_grads**-0.5  # [chunk, number, B]
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
    values, costs = inverse.in_blocks(weight).unflatten(1, (-1, group)).unsqueeze(3), []  # [blocks, groups, group, 1]
    for place, root in inverse.chunks():
        rows = root.unflatten(1, (-1, group)).double()  # [chunk, groups, group, B]
        removed = values[place].double()
        solved = torch.cholesky_solve(removed, torch.linalg.cholesky(rows @ rows.mT))
        costs.append((removed * solved).sum((2, 3)).to(values) / 2)
    return torch.cat(costs).flatten()[: inverse.num_weights // group]


@torch.no_grad()
def update(weight: Tensor, inverse: BlockInverseFisher, gone: Tensor) -> Tensor:
    """The change of all weights, [num_weights], that takes those in `gone` (bool) to exactly 0, all together."""
    values, leaving, changes = inverse.in_blocks(weight), inverse.in_blocks(gone).bool(), []  # [blocks, B]
    for place, root in inverse.chunks():
        # All blocks get one shape: rows outside Q become those of the unit matrix, with 0 on the right. In float64,
        # since the eigenvalues of F^-1 lie far apart and the small ones decide.
        out = leaving[place].unsqueeze(2)  # [chunk, B, 1]
        rows = (root * out).double()
        matrix = rows @ rows.mT + torch.diag_embed((~leaving[place]).double())
        removed = (values[place].unsqueeze(2) * out).double()
        solved = torch.cholesky_solve(removed, torch.linalg.cholesky(matrix))
        changes.append(-(solved.mT @ rows).to(root) @ root.mT)  # [chunk, 1, B]
    return torch.where(gone, -weight, inverse.flat(changes).to(weight))
