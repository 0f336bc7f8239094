"""Statistics of several weights together, under the short names that `logs` and TensorBoard show."""

from keras_reg.models.statistics import Totals


def shares(totals: Totals) -> dict[str, float]:
    """Shares of zeros and of zero groups, norms, and the number of weights that are not finite."""
    size = max(1, totals.size)
    return {
        "zeros": totals.sparsity,
        "near_zeros": totals.near_zeros / size,
        "zero_groups": totals.group_sparsity,
        "l1_norm": totals.l1,
        "l2_norm": totals.l2,
        "non_finite": float(totals.non_finite),
    }
