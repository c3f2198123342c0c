-- What happened in one turn behind an event, and who goes on with it.
-- ARGV: the fence with which the turn began, the event's id ('' = the turn's beginning), most entries
-- -> {'OK', state, ms for which its holder has not been heard of, the holder (`holder`), id behind which
--     the events are, id of the `done` or `error` that ended it or '', then id, name, data of each}
--    state: 'held' | 'free' (it can be taken over) | 'told' (over, by a `done` or an `error`)
--           | 'untold' (over, and no event says so)
-- -> {'TRIMMED'}  the turn, or what is behind that event, is not kept any more
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
-- The turns are kept with the latest first; all behind this one, in the log, is the next one's.
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
  state = (ended_by ~= '' or is_current and status == 'idle') and 'told' or 'untold'
end
local reply = { 'OK', state, int(silent_ms), holder(), after, ended_by }
for _, entry in ipairs(redis.call('XRANGE', EV, '(' .. after, to, 'COUNT', most)) do
  reply[#reply + 1] = entry[1]
  reply[#reply + 1] = entry[2][2]
  reply[#reply + 1] = entry[2][4]
end
return reply
