-- What happened after an event.
-- ARGV: its id ('' = the beginning of the turn that runs, or the end if none does), most entries
-- -> {'OK', status, last event's id, id behind which the events are, the last turn, its state, ms for
--     which its holder was not heard of (`last_turn`), the holder, then id, name, data of each}
-- -> {'TRIMMED', last event's id}  that event is not kept any more, so some may be missing
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

-- The beginning of a turn, `<fence>-0`, is no event, but its first one is.
local known = string.gsub(after, '%-0$', '-1')
if first and (after == start or after == before) then
  -- Or all that was before it: the log of that may have expired.
  known = first
elseif after == '0-0' and first_ever then
  -- Asked for before anything had happened.
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
