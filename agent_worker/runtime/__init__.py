"""Turns and the agent loop.

turns          opens the turns of a worker, serves queued messages, ends all of them
admission      how a request gets its session's lease
open_turns     the tasks that a drain waits for
turn           one turn; `held_lease`: its lease, `replay`: a turn that has finished before
ephemeral      turns without a session; `journal`: what is kept of them while they run
loop           model <-> tools until done; knows neither HTTP nor Redis
tool_calls     the calls of one step, and the ledger
conversation   the part of the history that a model gets
large          texts that are kept as blobs
events         their names and ids
event_writer   a turn's events: to the log, then to the client
tail           a session's events: from the log to its followers
turn_takeover  one turn's events to its end; takes the turn over if its worker died
holders        whether the worker that holds a turn is alive
orphans        turns whose worker died and that have no follower
notifier       notifications from other workers
paging         a session page by page
archiver       moves messages to the archive
janitor        removes data that has outlived its session
"""

from agent_worker.runtime.admission import Policy, TurnRequest
from agent_worker.runtime.archiver import Archiver
from agent_worker.runtime.ephemeral import EphemeralRequest, EphemeralTurns
from agent_worker.runtime.events import Emit
from agent_worker.runtime.large import LargeTexts
from agent_worker.runtime.loop import AgentLoop
from agent_worker.runtime.notifier import Notifier
from agent_worker.runtime.orphans import Orphans
from agent_worker.runtime.replay import ReplayedTurn
from agent_worker.runtime.tail import Tail
from agent_worker.runtime.tool_calls import ToolCalls
from agent_worker.runtime.turn import Turn
from agent_worker.runtime.turn_takeover import FollowRequest, TurnTakeover
from agent_worker.runtime.turns import Turns
