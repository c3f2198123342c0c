-- The events of a turn after an event, and the state of the turn.
-- ARGV: the fence of the turn's begin, the event's id ('' = the turn's beginning), maximum of events
-- -> {'OK', state, ms since its holder's last heartbeat, the holder (`holder`), id after which the
--     events are, id of the `done` or `error` that ended it or '', then id, name, data of each}
--    state: 'held' | 'free' (it can be taken over) | 'ended' (over, with a `done` or an `error`)
--           | 'lost' (over, without such an event)
-- -> {'TRIMMED'}  the turn, or the events after the given one, have expired
local refused = refusal()
if refused then
  return refused
end
local turn, after, most = ARGV[5], ARGV[6], ARGV[7]
local start = turn .. '-0'
local current, turns, turn_first, first_event, last_event, status = unpack(redis.call('HMGET', META,
  'turn_event', 'turns', 'turn_first', 'first_event', 'last_event', 'status'))
local is_current = current == start
turns = turns or ' '
if not is_current and not string.find(turns, ' ' .. turn .. ' ', 1, true) then
  return { 'TRIMMED' }
end
if after == '' or is_before(after, start) then
  after = start
end

-- The log loses its oldest entries first.
local function is_kept()
  if not is_before(after, last_event or '0-0') then
    return true
  end
  local oldest = redis.call('XRANGE', EV, '-', '+', 'COUNT', 1)[1]
  oldest = oldest and oldest[1]
  if not oldest or not is_before(after, oldest) then
    return oldest ~= nil
  end
  return after == start
    and (oldest == first_event or is_current and oldest == turn_first)
end

if not is_kept() then
  return { 'TRIMMED' }
end
-- The latest turn comes first: the one before this turn in the list follows it in the log.
local following = string.match(turns, '(%S+) ' .. turn .. ' ')
local to = following and '(' .. following .. '-0' or '+'
local state, silent_ms = state_of(turn)
local ended_by = ''
if state == 'stopping' then
  state = 'held'
end
if state == 'over' then
  local last = redis.call('XREVRANGE', EV, to, start, 'COUNT', 1)[1]
  if last and (last[2][2] == 'done' or last[2][2] == 'error') then
    ended_by = last[1]
  end
  state = (ended_by ~= '' or is_current and status == 'idle') and 'ended' or 'lost'
end
local reply = { 'OK', state, int(silent_ms), holder(), after, ended_by }
for _, entry in ipairs(redis.call('XRANGE', EV, '(' .. after, to, 'COUNT', most)) do
  reply[#reply + 1] = entry[1]
  reply[#reply + 1] = entry[2][2]
  reply[#reply + 1] = entry[2][4]
end
return reply
