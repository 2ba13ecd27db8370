"""Everything that is measured, by what it is about.

    python -m loadtest.bench hotpath [--quick] [--real] [--peers] [--only NAME ...] [--alone] [--rounds N] [--json FILE]
    python -m loadtest.bench scheduler [--quick] [--json FILE] [--real]
    python -m loadtest.bench store [--quick] [--json FILE] [--folder DIRECTORY] [--aiosqlite]
    python -m loadtest.bench background [--quick] [--json FILE]
    python -m loadtest.bench scrape [--quick] [--json FILE]

See `loadtest.bench_hotpath`, `loadtest.bench_scheduler`, `loadtest.bench_store`, `loadtest.bench_background` and
`loadtest.scrape_cost`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from loadtest import bench_background, bench_hotpath, bench_scheduler, bench_store, scrape_cost


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="[hotpath | scheduler | store | background | scrape]"
    )
    hotpath = commands.add_parser(
        "hotpath", description=bench_hotpath.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    bench_hotpath.add_arguments(hotpath)
    scheduler = commands.add_parser(
        "scheduler", description=bench_scheduler.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scheduler.add_argument("--quick", action="store_true", help="everything once and briefly, in less than a minute")
    scheduler.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    scheduler.add_argument("--real", action="store_true", help="kill workers of the packaged CLI too")
    store = commands.add_parser(
        "store", description=bench_store.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    store.add_argument("--quick", action="store_true", help="few answers, in a second")
    store.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    store.add_argument("--folder", type=Path, metavar="DIRECTORY", help="on the disk that is meant")
    store.add_argument("--aiosqlite", action="store_true", help="measure that library too")
    background = commands.add_parser(
        "background", description=bench_background.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    background.add_argument("--quick", action="store_true", help="few of them, in a few seconds")
    background.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    scrape = commands.add_parser("scrape", description=scrape_cost.__doc__)
    scrape.add_argument("--quick", action="store_true", help="a few times")
    scrape.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    if arguments.command == "hotpath":
        return bench_hotpath.run(arguments)
    if arguments.command == "scheduler":
        return bench_scheduler.run(is_quick=arguments.quick, is_real=arguments.real, json_file=arguments.json)
    if arguments.command == "background":
        return bench_background.run(is_quick=arguments.quick, json_file=arguments.json)
    if arguments.command == "scrape":
        return scrape_cost.run(is_quick=arguments.quick, json_file=arguments.json)
    return bench_store.run(
        is_quick=arguments.quick,
        has_peer=arguments.aiosqlite,
        folder=arguments.folder,
        json_file=arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
