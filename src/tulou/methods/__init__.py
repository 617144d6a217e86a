"""Methods: what standards and papers say how to compute, as pure functions on numpy arrays.

Law: no I/O, no clock, no chance without a seed; nothing of the house but this folder is imported. Every module names its
source; a table of a standard is data with the day from which it is valid, so that another edition stands beside it. A missing
value is NaN, stays NaN, and costs no neighbour; what the caller asked wrongly is `errors.InvalidInput`. `decompose`, `trend` and
`forecast` need the extra `methods`; the rest needs numpy alone.
"""
