"""`python -m tests.language [--count | --all] [PATH ...]`: prose that words.toml refuses.

(no option)   findings outside of unclean.txt; exit status 1 if there are any
--all         all findings
--count       the number of findings by folder, and the entries of unclean.txt that are clean now
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from tests.language.check import Finding, findings, is_below, read_unclean


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.language")
    parser.add_argument("--count", action="store_true", help="count findings by folder")
    parser.add_argument("--all", action="store_true", help="ignore unclean.txt")
    parser.add_argument("paths", nargs="*", help="files or folders; default: everything")
    options = parser.parse_args(arguments)
    found = list(findings(options.paths))
    unclean = read_unclean()
    if options.count:
        _count(found, unclean)
        return 0
    shown = found if options.all else [each for each in found if not is_below(each.path, unclean)]
    for each in shown:
        print(each)
    return 1 if shown else 0


def _count(found: list[Finding], unclean: list[str]) -> None:
    by_folder = Counter(
        str(each.path.parent if each.path.suffix != ".md" else each.path) for each in found
    )
    for folder, count in sorted(by_folder.items(), key=lambda item: (-item[1], item[0])):
        print(f"{count:6} {folder}")
    print(f"{len(found):6} in all")
    for word, count in Counter(each.word.name for each in found).most_common():
        print(f"{count:6} {word}")
    for place in unclean:
        if not any(is_below(each.path, [place]) for each in found):
            print(f"clean: {place} can leave unclean.txt")


if __name__ == "__main__":
    sys.exit(main())
