"""python -m tests.bench [--rows 1,2] [--gpu] [--out bench.json]: measure the rows and print them as Markdown."""

import argparse
from pathlib import Path

from tests.bench.measure import SIDES, machine, measure, print_memory, table, write
from tests.bench.row import Timed
from tests.bench.rows import LONG, ROWS


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rows", help="numbers with commas between them; without it, all but the long ones")
    parser.add_argument("--gpu", action="store_true", help="the rows that are for a GPU, on a GPU")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    parser.add_argument("--memory-of", choices=SIDES, help="run one side of one row once, and print its memory in MB")
    given = parser.parse_args()
    device = "cuda" if given.gpu else "cpu"
    usual = [number for number in ROWS if given.gpu or number not in LONG]
    wanted = given.rows.split(",") if given.rows else usual
    if unknown := [number for number in wanted if number not in ROWS]:
        parser.error(f"there is no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    rows = [ROWS[number] for number in wanted]
    if given.gpu:
        rows = [row for row in rows if isinstance(row, Timed) and row.gpu]
    if given.memory_of:
        (row,) = rows
        print_memory(row, given.memory_of, device)
        return
    results = []
    for row in rows:
        results.append(measure(row, device))
        if given.out:
            write(given.out, results)
    print(f"{machine()}\n")
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
