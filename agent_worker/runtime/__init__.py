"""Turns and the agent loop.

turns         who may begin a turn, what waits, how all of them end
turn          one turn under its lease
ephemeral     turns of no session
journal       and what is kept of them while they run
loop          model <-> tools until done; it knows neither HTTP nor Redis
tool_calls    the calls of one step, and the ledger
conversation  what of the history a model gets
large         texts that are kept as blobs
events        their names and ids
outlet        events: into the log, then to the client
tail          events: from the log to whoever follows it
succession    one turn's events to its end, and its end if its worker died
holders       whether the worker that has a turn lives
orphans       turns that lost their worker, and that nobody follows
outage        how long a reader waits while Redis is away
bells         what rings a worker when something happens elsewhere
reading       a session in parts
archiver      feeds the archive
janitor       removes what outlived its session
"""

from agent_worker.runtime.archiver import Archiver
from agent_worker.runtime.bells import Bells
from agent_worker.runtime.ephemeral import EphemeralRequest, EphemeralTurns
from agent_worker.runtime.events import Emit
from agent_worker.runtime.large import LargeTexts
from agent_worker.runtime.loop import AgentLoop
from agent_worker.runtime.orphans import Orphans
from agent_worker.runtime.succession import FollowRequest, Succession
from agent_worker.runtime.tail import Tail
from agent_worker.runtime.tool_calls import ToolCalls
from agent_worker.runtime.turn import ReplayedTurn, Turn
from agent_worker.runtime.turns import Policy, TurnRequest, Turns

__all__ = [
    "AgentLoop",
    "Archiver",
    "Bells",
    "Emit",
    "EphemeralRequest",
    "EphemeralTurns",
    "FollowRequest",
    "LargeTexts",
    "Orphans",
    "Policy",
    "ReplayedTurn",
    "Succession",
    "Tail",
    "ToolCalls",
    "Turn",
    "TurnRequest",
    "Turns",
]
