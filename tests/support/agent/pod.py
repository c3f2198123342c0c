"""`python -m tests.support.agent.pod`: a worker as in a pod, at an API server without TLS.

The API server's URL is in FAKE_API, and the file of the token in FAKE_TOKEN.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from agent_worker import cli
from agent_worker.pod_deletion_cost import PodDeletionCost

if TYPE_CHECKING:
    from agent_worker.app import Worker


def deletion_cost(worker: Worker) -> PodDeletionCost:
    return PodDeletionCost(
        worker.load,
        server=os.environ["FAKE_API"],
        namespace=os.environ["POD_NAMESPACE"],
        pod=os.environ["POD_NAME"],
        token_file=Path(os.environ["FAKE_TOKEN"]),
        every_s=0.2,
    )


if __name__ == "__main__":
    cli._deletion_cost = deletion_cost
    cli.main()
