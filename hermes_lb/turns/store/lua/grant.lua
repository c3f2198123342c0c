-- Take the session, if it is the turn's. ARGV[5]: incarnations that are dead, separated by spaces.
-- Otherwise the ms after which to look again, and the turn and incarnation to watch.
local INCARNATION, dead = ARGV[4], {}
for incarnation in string.gmatch(ARGV[5], '%S+') do
  dead[incarnation] = true
end
local turn = read_own()
if not turn or turn.state ~= WAITING then
  return { 'FENCED', {} }
end
if turn.not_before > NOW then
  return { 'WAIT', int(turn.not_before - NOW), '', '', {} }
end
if not HAS_SESSION then
  return { 'GRANTED', redis.call('HGET', TURN, 'fence'), {} }
end
local session = read_session(dead)
local is_queued = false
for _, entry in ipairs(redis.call('LRANGE', QUEUE, 0, -1)) do
  local id, incarnation = string.match(entry, '^(%S+) %S+ (%S+)$')
  is_queued = is_queued or id == ID
  if dead[incarnation] then
    redis.call('LREM', QUEUE, 1, entry)
  end
end
if not is_queued and session.holder ~= ID then
  -- Its grant was not taken in time, or the store has lost it.
  redis.call('RPUSH', QUEUE, ID .. ' ' .. NONCE .. ' ' .. turn.incarnation)
  keep_for(QUEUE, turn.keep + LIVE_MS)
end
local known = tonumber(redis.call('HGET', TURN, 'fence'))
session.fence = math.max(session.fence, known)
local wakes = advance(session, turn.keep)
if session.holder == ID and session.nonce == NONCE then
  redis.call('HDEL', SESSION, 'granted_until')
  redis.call('HSET', TURN, 'fence', int(session.fence))
  return { 'GRANTED', int(session.fence), {} }
end
local due = session.granted_until or session.settled_at
if session.holder then
  return { 'WAIT', int(math.max(0, due - NOW)), session.holder, session.incarnation, wakes }
end
return { 'WAIT', int(math.max(0, session.settled_at - NOW)), '', '', wakes }
