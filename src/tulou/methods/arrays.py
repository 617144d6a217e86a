"""Arrays of this floor: floats with NaN for what is missing, and the rounding of GB/T 8170.

Source: GB/T 8170-2008, 3.2 (四舍六入五成双: the half goes to the even neighbour).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tulou.methods.errors import InvalidInput

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def floats(field: str, values: ArrayLike, ndim: int | None = None) -> Floats:
    """`values` as float64; infinite ones become NaN. `InvalidInput` when they are no numbers or not of `ndim` dimensions."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{field} 不是数值数组", f"{field} is no array of numbers", field=field) from error
    if ndim is not None and array.ndim != ndim:
        raise InvalidInput(
            f"{field} 应为 {ndim} 维数组，实为 {array.ndim} 维", f"{field} has {array.ndim} dimensions, not {ndim}",
            field=field, value=array.shape, rule=f"ndim == {ndim}",
        )
    array[~np.isfinite(array)] = np.nan
    return array


def together(values: Mapping[str, ArrayLike]) -> dict[str, Floats]:
    """Every entry as floats of one common shape. `InvalidInput` when the shapes do not broadcast."""
    arrays = {name: floats(name, value) for name, value in values.items()}
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError as error:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise InvalidInput(
            f"各项数组形状不一致：{shapes}", f"the arrays differ in shape: {shapes}", field="values", value=shapes
        ) from error
    return {name: np.broadcast_to(array, shape) for name, array in arrays.items()}


def half_even(values: ArrayLike, decimals: int = 0) -> Floats:
    """`values` rounded to `decimals` places by GB/T 8170.

    What binary arithmetic left a millionth of the last place beside a half counts as the half: a mean of 0.285 is 0.28 and one of
    34.499999999 is 34.5, so 34.
    """
    scale = 10.0**decimals
    return np.asarray(np.rint(np.round(np.asarray(values, dtype=np.float64) * scale, 6)) / scale)
