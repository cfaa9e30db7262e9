"""`python -m tests.crashes`: every point of every dialect, or one that a failure named."""

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.crashes.stories import Story, Told
from tests.crashes.sweep import only, sweep
from tests.crashes.teller import ROUTES


def main() -> int:
    asked = arguments()
    if asked.point:
        story = Story(
            asked.route[0],
            (*asked.point,),
            asked.stopped,
            asked.bug,
            asked.elsewhere,
        )
        return tell([only(story)])
    pool = ProcessPoolExecutor(asked.at_once, get_context("spawn"))
    began = time.monotonic()
    code = 0
    with pool:
        swept = [
            pool.submit(sweep, r, asked.every, n) for n, r in enumerate(asked.route)
        ]
        for each in as_completed(swept):
            code |= tell(each.result())
    sys.stdout.write(f"{time.monotonic() - began:.0f} s\n")
    return code


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.crashes", description=__doc__)
    parser.add_argument("--all", action="store_true", help="the same as --every 1")
    parser.add_argument("--every", type=int, default=1, help="only each nth point")
    parser.add_argument(
        "--route", action="append", choices=ROUTES, help="not all of them"
    )
    parser.add_argument("--point", action="append", help="in turn; needs --route")
    parser.add_argument(
        "--stopped", action="store_true", help="not killed, and goes on"
    )
    parser.add_argument(
        "--elsewhere", action="store_true", help="with shards that are joined"
    )
    parser.add_argument("--bug", help="of tests/crashes/bugs.py, planted first")
    parser.add_argument("--at-once", type=int, default=2)
    asked = parser.parse_args()
    asked.route = asked.route or ROUTES
    return asked


def tell(all_told: list[Told]) -> int:
    """Print how many points there were and which laws broke."""
    met = Counter(told.met for told in all_told)
    broken = [told for told in all_told if told.broken]
    summary = f"{len(all_told)} stories, met {dict(met)}, {len(broken)} broken"
    sys.stdout.write(f"{all_told[0].story.route}: {summary}\n")
    for told in broken:
        sys.stdout.write(f"{told}\n")
    sys.stdout.flush()
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
