"""`tulou`, also as `python -m tulou`.

Law: what a start makes stays until the end, so garbage is looked for seldom from the first import on: that is a seventh of a start.
"""

import gc

gc.set_threshold(50_000, 20, 100)

from tulou.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
