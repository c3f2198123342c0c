-- The events after an event.
-- ARGV: its id ('' = the beginning of the running turn, or the end if none runs), maximum of events
-- -> {'OK', status, last event's id, id after which the events are, the last turn, its state, ms of
--     silence of its holder (`last_turn`), the holder, then id, name, data of each}
-- -> {'TRIMMED', last event's id}  the given event has expired, so others may be missing
local refused = refusal()
if refused then
  return refused
end
local after, most = ARGV[5], ARGV[6]
local status, last, start, first, before, first_ever = unpack(redis.call('HMGET', META, 'status',
  'last_event', 'turn_event', 'turn_first', 'turn_before', 'first_event'))
last = last or '0-0'
if status == 'running' and redis.call('EXISTS', LEASE) == 0 then
  status = 'interrupted'
end
if after == '' then
  after = status == 'running' and start or last
end

-- The beginning of a turn, `<fence>-0`, is not an event; the turn's first event is.
local known = string.gsub(after, '%-0$', '-1')
if first and (after == start or after == before) then
  -- Earlier events may have expired.
  known = first
elseif after == '0-0' and first_ever then
  -- The client asked before the first event.
  known = first_ever
end
local entries = redis.call('XRANGE', EV, '(' .. after, '+', 'COUNT', most)
if is_before(after, last) and #redis.call('XRANGE', EV, known, known) == 0 then
  return { 'TRIMMED', last }
end
local turn, state, silent_ms = last_turn()
local reply = { 'OK', status, last, after, turn, state, silent_ms, holder() }
for _, entry in ipairs(entries) do
  reply[#reply + 1] = entry[1]
  reply[#reply + 1] = entry[2][2]
  reply[#reply + 1] = entry[2][4]
end
return reply
