"""`python -m tests.simulation`: plays many nights, or one with its full trace."""

# ruff: noqa: T201 - it prints what it found
import argparse
import gc
import multiprocessing
import sys
import time
from collections import Counter

from tests.simulation.night import brief, played


def main() -> int:
    asked = argparse.ArgumentParser(prog="python -m tests.simulation")
    asked.add_argument("--nights", type=int, default=1000)
    asked.add_argument("--from-seed", type=int, default=0)
    asked.add_argument("--jobs", type=int, default=1)
    asked.add_argument("--seed", type=int, help="this night alone")
    asked.add_argument("--verbose", action="store_true", help="with its whole trace")
    args = asked.parse_args()
    if args.seed is not None:
        return _one(args.seed, verbose=args.verbose)
    return _many(range(args.from_seed, args.from_seed + args.nights), args.jobs)


def _one(seed: int, *, verbose: bool) -> int:
    told = played(seed)
    if verbose:
        print(*told.trace, sep="\n")
    print(
        f"seed {seed}: {told.sales} sales, {told.slept_s:.0f} s, digest {told.digest}"
    )
    print(*told.breaches, sep="\n")
    return 1 if told.breaches else 0


def _many(seeds: range, jobs: int) -> int:
    began, failed, laws = time.monotonic(), 0, Counter[str]()
    sales = steps = 0
    with multiprocessing.get_context("spawn").Pool(jobs, gc.freeze) as pool:
        for n, (seed, breaches, sold, took) in enumerate(
            pool.imap_unordered(brief, seeds, chunksize=4), 1
        ):
            sales, steps = sales + sold, steps + took
            if breaches:
                failed += 1
                laws[breaches[0].partition(" ")[0]] += 1
                print(f"seed {seed}: {breaches[0]}", flush=True)
            if n % 100 == 0:
                each = (time.monotonic() - began) / n
                print(f"{n} nights, {failed} failed, {each:.3f} s each", flush=True)
    print(f"{len(seeds)} nights, {failed} failed, {sales} sales, {steps} steps")
    print(*(f"  {law}: {count}" for law, count in laws.most_common()), sep="\n")
    if failed:
        print("reproduce one: python -m tests.simulation --seed N --verbose")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
