"""`python -m tests.parity`: compares what clients see now with what they saw, and says what differs.

With the real CLIs that is what was recorded, with a scripted one what the predecessor answered. Exit code 0 if nothing
differs, else 1.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from tests.parity import binaries, transcript, verdicts
from tests.parity.binaries import Cli, NotToBeHadError
from tests.parity.driver import play
from tests.parity.replay import exchanges, replay
from tests.parity.scenarios import SCENARIOS
from tests.parity.steps import Scenario


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    options = _parser().parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    chosen = [each for each in SCENARIOS if not options.scenario or each.name in options.scenario]
    if options.record:
        return _record(chosen, binaries.packaged())
    is_same = _compare(chosen, _others(options))
    if not options.scenario and not options.cli:
        is_same = _replay() and is_same
    return 0 if is_same else 1


def _record(scenarios: Sequence[Scenario], cli: Cli) -> int:
    today = datetime.now(UTC).date().isoformat()
    for name, text in play(scenarios, cli).items():
        says = next(each.says for each in scenarios if each.name == name)
        is_new = transcript.write(name, says, text, version=cli.version, today=today)
        _say(f"{'recorded ' if is_new else 'unchanged'} {name}")
    return 0


def _compare(scenarios: Sequence[Scenario], clis: Sequence[Cli]) -> bool:
    found = {cli: transcript.differences(play(scenarios, cli), version=cli.version) for cli in clis}
    _say(table([each.name for each in scenarios], {cli.version: diffs for cli, diffs in found.items()}))
    texts = [diff for diffs in found.values() for diff in diffs.values()]
    for text in texts:
        _say("\n" + text.rstrip())
    return not texts


def _replay() -> bool:
    """Whether the predecessor's answers are what became of them."""
    answers = exchanges()
    now = replay(verdicts.comparable(answers))
    _say(f"\nThe predecessor's answers:\n\n{verdicts.summary(answers)}\n\n{verdicts.changes(answers)}")
    wrong = {each.title: lost for each in answers if each.id in now and (lost := verdicts.wrong(each, now[each.id]))}
    for title, lost in wrong.items():
        _say("\n".join([f"\n{title}", *lost]))
    return not wrong


def table(names: Sequence[str], found: dict[str, dict[str, str]]) -> str:
    """A row per scenario, a column per CLI version."""
    rows = [["scenario", *found]]
    rows += [[name, *("differs" if name in diffs else "same" for diffs in found.values())] for name in names]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _others(options: argparse.Namespace) -> list[Cli]:
    """The CLIs to compare."""
    if options.cli:
        return [binaries.at(path) for path in options.cli]
    clis = [binaries.packaged()]
    try:
        clis.append(binaries.newest())
    except NotToBeHadError as reason:
        _say(f"only the packaged Codex CLI is compared: {reason}\n")
    return clis


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the command's answer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("scenario", nargs="*", help="only these")
    parser.add_argument("--record", action="store_true", help="write the golden transcripts with the packaged CLI")
    parser.add_argument(
        "--cli",
        action="append",
        type=Path,
        metavar="PATH",
        help="compare this one; without it the packaged one and the newest of the registries",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
