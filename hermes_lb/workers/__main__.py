"""A worker process, as the supervisor starts it: `python -m hermes_lb.workers --loop NAME`.

With `--check FILE`: report whether this code could run a configuration.
"""

import sys
from pathlib import Path

from hermes_lb.workers.run import check, run_worker

if __name__ == "__main__":
    what, value = sys.argv[1:]
    sys.exit(check(Path(value)) if what == "--check" else run_worker(value))
