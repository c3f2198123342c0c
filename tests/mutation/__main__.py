"""`python -m tests.mutation`: put each mutant into a copy of the tree, and see its tests fail.

The tests are run without any mutant first: they must pass. The exit status is 0 if all mutants
were killed, 1 if not, 2 if the tests fail by themselves or nothing was chosen.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, NoReturn

from bench.interruption import sigterm_is_ctrl_c
from tests.mutation.copies import Copy
from tests.mutation.report import Result, Verdict, failed_tests, summary, verdict_of
from tests.mutation.table import FOLDER, ROOT, Stale, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.mutation.table import Mutant


def main(arguments: Sequence[str], root: Path = ROOT, table: Path = FOLDER) -> int:
    """Run the command; `root` is the tree to copy, `table` the folder of the mutants."""
    options = _parser().parse_args(arguments)
    mutants = [
        mutant
        for mutant in load(table)
        if not options.only or any(text in mutant.name for text in options.only)
    ]
    if not mutants:
        print("no mutant has such a name", file=sys.stderr)
        return 2
    if options.list:
        for mutant in mutants:
            print(f"{mutant.name}: {mutant.breaks} ({mutant.file})")
        return 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        return _run(mutants, root, Path(folder), options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="name the mutants and end")
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="those whose name contains it; repeatable"
    )
    parser.add_argument("-j", "--jobs", type=int, default=2, help="at the same time; default 2")
    parser.add_argument(
        "--limit", type=float, default=120.0, metavar="SECONDS", help="for one mutant; default 120"
    )
    parser.add_argument(
        "--no-baseline", action="store_true", help="do not run the tests without a mutant first"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show which test killed each mutant"
    )
    return parser


def _run(mutants: Sequence[Mutant], root: Path, folder: Path, options: argparse.Namespace) -> int:
    first = Copy(root, folder / "0")
    if not options.no_baseline and not _passes_alone(first, mutants, options):
        return 2
    others = range(1, min(options.jobs, len(mutants)))
    all_copies = [first, *(Copy(first.folder, folder / str(number)) for number in others)]
    copies: SimpleQueue[Copy] = SimpleQueue()
    for copy in all_copies:
        copies.put(copy)

    def judge(mutant: Mutant) -> Result:
        copy = copies.get()
        try:
            return _judge(mutant, copy, options)
        finally:
            copies.put(copy)

    results = []
    pool = ThreadPoolExecutor(len(all_copies))
    try:
        for future in as_completed([pool.submit(judge, mutant) for mutant in mutants]):
            results.append(result := future.result())
            print(result, flush=True)
    finally:
        # After Ctrl-C: what has not begun never will, and what runs is ended.
        for copy in all_copies:
            copy.stop()
        pool.shutdown(cancel_futures=True)
    failed = [result for result in results if result.verdict is not Verdict.KILLED]
    print(f"\n{summary(results)}")
    for result in failed:
        print(f"{result.verdict}: {result.mutant.name}: {result.mutant.breaks}")
    return 1 if failed else 0


def _passes_alone(copy: Copy, mutants: Sequence[Mutant], options: argparse.Namespace) -> bool:
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    print(f"{len(tests)} tests of {len(mutants)} mutants, without a mutant ...", flush=True)
    limit = options.limit * len(mutants)
    parallel = ("-n", str(options.jobs)) if options.jobs > 1 else ()
    ended = copy.test(tests, limit, *parallel, keeps_caches=True)
    if ended.code != 0:
        print(f"{ended.output}\nthe tests fail without a mutant", file=sys.stderr)
    return ended.code == 0


def _judge(mutant: Mutant, copy: Copy, options: argparse.Namespace) -> Result:
    began = time.monotonic()
    try:
        with copy.mutated(mutant):
            ended = copy.test(mutant.tests, options.limit)
    except (Stale, OSError) as error:
        return Result(mutant, Verdict.STALE, str(error), 0.0)
    verdict, detail = verdict_of(ended)
    if options.verbose and verdict is Verdict.KILLED:
        detail = ", ".join(failed_tests(ended.output))
    return Result(mutant, verdict, detail, time.monotonic() - began)


def run_as_command(arguments: Sequence[str], root: Path = ROOT, table: Path = FOLDER) -> NoReturn:
    """`main` in a process of its own: SIGINT and SIGTERM end it with all that it has started."""
    sigterm_is_ctrl_c()
    try:
        sys.exit(main(arguments, root, table))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run_as_command(sys.argv[1:])
