"""Muon for matrices and AdamW for other parameters, as one optimizer."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

RMS = 0.8  # of an update of a matrix, in learning rates
MOMENTUM = 0.95
_NORM_MARGIN = 1.01  # keeps the largest singular value below 1
# Odd polynomials a s + b s^3 + c s^5 to be applied in turn. Each is the one nearest to 1 on the
# interval into which those before it take [.01, 1]; the last ends in [.73, 1.27].
_POLYNOMIALS = (
    (8.093369, -23.620432, 17.446152),
    (3.636586, -2.721927, 0.536546),
    (2.6613, -1.977155, 0.452616),
)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices near to 1, by polynomials instead of a decomposition.

    Those below a hundredth of the Frobenius norm become 78 times larger at most.

    Parameters
    ----------
    matrices : Tensor of shape (n, rows, columns)
        With at most as many rows as columns.

    Returns
    -------
    orthogonalized : Tensor of shape (n, rows, columns)
        About U V^T, where U S V^T is the singular value decomposition.
    """
    norm = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    x = matrices / (_NORM_MARGIN * norm).clamp_min(torch.finfo(norm.dtype).tiny)
    for a, b, c in _POLYNOMIALS:
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.AdamW):
    """Momentum whose updates of matrices are orthogonalized; AdamW for all other parameters.

    The update of a matrix is the orthogonal matrix nearest to its momentum [1]_, scaled to a root
    mean square of 0.8 learning rates, which is about that of an update of AdamW [2]_. The filters
    of a convolution are the rows of a matrix. Polynomials are chosen as in [3]_, but fewer.

    `torch.optim.Muon` takes no filters, and computes in bfloat16 even on CPUs, where that is slow.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        Those of two or more dimensions are matrices.

    **options : dict
        Of AdamW. Weight decay and learning rate are used for matrices, too.

    References
    ----------
    .. [1] K. Jordan et al. "Muon: An optimizer for hidden layers in neural networks". 2024.

    .. [2] J. Liu et al. "Muon is Scalable for LLM Training". 2025.

    .. [3] N. Amsel, D. Persson, C. Musco, R. M. Gower. "The Polar Express: Optimal Matrix Sign
       Methods and Their Application to the Muon Algorithm". 2025.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], **options):
        parameters = list(parameters)
        others = [p for p in parameters if p.ndim < 2]
        self._matrices = [p for p in parameters if p.ndim >= 2]
        groups = [{"params": params} for params in (others, self._matrices) if params]
        super().__init__(groups, **options)

    def __setstate__(self, state: dict) -> None:
        """Restore the state; that of matrices is not what AdamW expects.

        Parameters
        ----------
        state : dict
            As given by ``load_state_dict``.
        """
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Update all parameters that have gradients.

        The gradients of the matrices are gone afterwards.

        Parameters
        ----------
        closure : None, default=None
            Not used.
        """
        for matrices in self._by_shape():
            self._update(matrices)
        super().step()

    def _by_shape(self):
        """Matrices that have gradients, those of equal shape together."""
        groups = {}
        for matrix in self._matrices:
            if matrix.grad is not None:
                groups.setdefault(matrix.shape, []).append(matrix)
        return groups.values()

    def _update(self, matrices):
        options = self.param_groups[-1]
        gradients = [matrix.grad for matrix in matrices]
        momenta = [self._momentum(matrix) for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        updates = torch.stack(torch._foreach_lerp(gradients, momenta, MOMENTUM)).flatten(2)
        is_tall = updates.shape[1] > updates.shape[2]
        updates = updates.mT if is_tall else updates
        # In bfloat16, which is exact enough, where there is hardware for it.
        dtype = torch.bfloat16 if updates.is_cuda else updates.dtype
        updates = orthogonalize(updates.to(dtype)).to(updates.dtype)
        scale = RMS * max(updates.shape[1:]) ** 0.5
        updates = (updates.mT if is_tall else updates) * (options["lr"] * scale)
        for matrix, update in zip(matrices, updates, strict=True):
            matrix.mul_(1 - options["lr"] * options["weight_decay"])
            matrix.sub_(update.reshape(matrix.shape))
            matrix.grad = None  # so that AdamW leaves it alone

    def _momentum(self, matrix):
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        return state["momentum"]
