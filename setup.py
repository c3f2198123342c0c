"""The modules that mypyc may compile, and the README of an index; all else is in pyproject.toml.

`pip install .` needs no compiler. With HERMES_LB_MYPYC=1 in the environment (`make wheel`) these
modules become C extensions beside their sources: docs/performance.md.
"""

import os
import re
from pathlib import Path

from setuptools import setup

# What each request or token passes through. Left out: what mypyc would keep interpreted, or get
# wrong (models of pydantic, whose annotations lose their constraints; named tuples with fields of
# types that are imported for annotations only), and what runs rarely.
COMPILED = {
    "affinity": "response_cookies",
    "backends": "histogram outliers pool server",
    "balancing": "live_sessions load_heap loops response_times ring smooth_wrr weighted_sampler",
    "http": (
        "body bounded_cache continued_events fields forward head https json_search keys kept_body"
        " limits load_report numbered_events request response recurring_cache rules sse"
        " trace_context trailers"
        " varying_lines version"
    ),
    "limits": "per_client",
    "observe": "escaping httplog record recorder termination",
    "proxy": (
        "abandoned admit batch context deadlines exchange identity live local_replies phases ports"
        " record response resume select settings tunnel upload wall_clock"
    ),
    "proxy/http1": "client connection_pool intake tunnel_end upstream",
    "proxy/http2": (
        "connection connection_pool fields frame_io grpc stream tunnel_end upstream upstream_fields"
        " upstream_stream verdicts"
    ),
    "proxy/turns": "client detached journal_side owner",
    "tls": "above",
    "transport": "addresses endpoint kernel run_queue",
}


def extensions() -> list:
    """A shared library with the code, and for each module a small one with its name."""
    if os.environ.get("HERMES_LB_MYPYC") != "1":
        return []
    from mypyc.build import mypycify

    package = Path("hermes_lb")
    paths = [
        str(package / folder / f"{name}.py")
        for folder, names in COMPILED.items()
        for name in names.split()
    ]
    return mypycify(paths, group_name="hermes_lb.compiled", opt_level="2", debug_level="0")


def description() -> str:
    """The README as an index shows it: links into the project are dead there."""
    text = Path("README.md").read_text(encoding="utf-8")
    text = re.sub(r"\[([^][]+)\]\((?!https?:)[^()]+\)", r"\1", text)
    return text.replace("pip install . ", "pip install hermes-lb ")


setup(
    ext_modules=extensions(),
    long_description=description(),
    long_description_content_type="text/markdown",
)
