"""`python -m tests.on_s3 --units 1000`: what a corpus of do-nothing stages asks of an S3 on loopback.

It calls `anything3d bench engine` once, and says how many requests and bytes its three calls have made: the run, the
finished corpus, and the publishing from the cells. Requests are told apart by method; a listing is a GET of its own.
"""

import argparse
import sys
from collections import Counter

from jobs.cli import app
from tests import s3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=1000)
    units = parser.parse_args().units
    with s3.serve() as server:
        place = f"s3://{s3.BUCKET}/bench"
        app(["bench", "engine", "--units", str(units), "--corpus", place], standalone_mode=False)
        kinds = Counter("LIST" if "list-type" in query else method for method, _, query in server.asked)
        stored = sum(map(len, server.objects.values()))
    asked = sum(kinds.values())
    print(f"{asked:,} requests ({', '.join(f'{number:,} {kind}' for kind, number in kinds.most_common())})")
    print(
        f"{asked / units:.1f} requests a unit; {server.sent / 1e6:,.1f} MB were read, {stored / 1e6:,.1f} MB lie there"
    )


if __name__ == "__main__":
    sys.exit(main())
