"""SparseGPT: what is lost with a weight is made up for by those not yet decided (Frantar & Alistarh, 2023, 2301.00774).

For a layer with weight W and inputs X (tokens, in_features) it looks for a sparse W' with ||X (W - W')^T|| small. With
the Hessian H = X^T X + damping and U the upper Cholesky factor of H^-1, columns are decided from left to right: weight
(i, j) costs (W_ij / U_jj)^2, and removing it moves the columns k > j of row i by -(W_ij / U_jj) U_jk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from energyaware.errors import AuditError
from energyaware.pruning.layerwise import LayerContext, Layerwise
from energyaware.pruning.statistics import InputGram

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.pruning.patterns import Pattern

COLUMNS: Final = 128
"""Columns that are decided before the rest of the matrix hears of it, and over which unstructured weights compete."""

DAMPING: Final = 0.01
"""Added to the Hessian's diagonal, as a share of its mean."""


class Hessian(InputGram):
    """X^T X, and what SparseGPT makes of it. Both last only for one block."""

    _factor: Tensor | None = None
    _dead: Tensor | None = None

    def factor(self) -> tuple[Tensor, Tensor]:
        """The factor U, (in_features, in_features) float32, and which inputs were always 0, (in_features,) bool.

        Computed in float64: near ties between costs are otherwise decided by rounding. It takes the place of the sums,
        to which nothing can be added any more. Layers that share the inputs share it.

        Raises:
            ArithmeticError: the damped Hessian is not positive definite.
        """
        import torch

        if self._factor is None or self._dead is None:
            matrix, self.gram = self.gram, torch.empty(0)
            diagonal = matrix.diagonal()
            self._dead = diagonal == 0
            damping = DAMPING * diagonal[~self._dead].mean() if bool((~self._dead).any()) else 0.0
            diagonal[self._dead] = 1.0
            diagonal += damping
            failed = torch.empty(0, dtype=torch.int32, device=matrix.device)
            # In place, in the order of LAPACK's columns (a symmetric matrix is its own transpose): the matrix of the
            # widest layer may be larger than all weights of its block.
            columns = matrix.mT
            torch.linalg.cholesky_ex(columns, out=(columns, failed))
            if int(failed):
                raise ArithmeticError(f"the Hessian of {self.tokens} tokens is not positive definite")
            torch.cholesky_inverse(columns, out=columns)
            torch.linalg.cholesky_ex(columns, out=(columns, failed))
            if int(failed):
                raise ArithmeticError(f"the inverse Hessian of {self.tokens} tokens is not positive definite")
            self._factor = columns.mT.float()
        return self._factor, self._dead


class SparseGPT(Layerwise):
    """Removes the weights that cost least, and changes those that stay.

    Unlike the authors' code it keeps the values of weights whose input was 0 on every calibration token, though such
    weights go first, and its counts are exact.
    """

    reconstructs: ClassVar[bool] = True
    statistics: ClassVar = Hessian

    def keep(self, weight: Tensor, pattern: Pattern, context: LayerContext) -> Tensor:
        """Decides and compensates column by column; `weight` becomes the compensated one.

        Raises:
            AuditError: the inputs do not give a Hessian that can be factored.
        """
        import torch

        try:
            factor, dead = context.inputs.factor()
        except ArithmeticError as error:
            raise AuditError(f"layer {context.name}: {error}") from error
        together = pattern.group or COLUMNS
        step = max(together, COLUMNS // together * together)
        work = weight.T.contiguous().T  # column by column in memory, as it is worked on
        mask = torch.ones_like(work, dtype=torch.bool)
        for start in range(0, weight.shape[1], step):
            part = slice(start, start + step)
            errors = _decide(work[:, part], mask[:, part], factor[part, part], dead[part], pattern, start)
            work[:, start + step :] -= errors @ factor[part, start + step :]
        weight.copy_(work)
        return mask.contiguous()


def _decide(weight: Tensor, mask: Tensor, factor: Tensor, dead: Tensor, pattern: Pattern, start: int) -> Tensor:
    """Decide a slice of columns that begins at `start`, in place; returns what its removals ask of later columns.

    weight, mask and errors: (out_features, columns); factor: (columns, columns).
    """
    import torch

    scale = factor.diagonal()
    together = pattern.group or weight.shape[1]
    errors = torch.zeros_like(weight)
    for column in range(weight.shape[1]):
        if column % together == 0:
            group = slice(column, column + together)
            cost = (weight[:, group] / scale[group]).square().masked_fill_(dead[group], 0)
            mask[:, group] = pattern.keep_highest_of_columns(cost, start + column)
        removed = (weight[:, column] / scale[column]).masked_fill_(mask[:, column], 0)
        errors[:, column] = removed
        weight[:, column].masked_fill_(~mask[:, column], 0)
        weight[:, column + 1 :].addr_(removed, factor[column, column + 1 :], alpha=-1)
    return errors
