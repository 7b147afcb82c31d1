"""`python -m alignment.hub_rows DATASET SPLIT LIMIT`: rows of a data set as JSONL on the standard output.

A process of its own, so that the server that asks for it never imports `datasets` and forgets it all afterwards.
"""

from __future__ import annotations

import itertools
import json
import sys


def main() -> None:
    """Print the rows, or one line of reason and exit code 2."""
    dataset, split, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
    try:
        from datasets import load_dataset

        rows = load_dataset(dataset, split=split, streaming=True)
        for row in itertools.islice(rows, limit):
            sys.stdout.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    except Exception as error:  # whatever the hub, the network or the data set does
        reason = " ".join(str(error).split()) or type(error).__name__
        sys.exit(f"{type(error).__name__}: {reason}")


if __name__ == "__main__":
    main()
