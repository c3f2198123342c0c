-- Take the session, if it is the turn's. Otherwise the ms after which it may be, the turn that has it,
-- and the incarnations to watch. ARGV[5]: those that are dead, separated by spaces. ARGV[6] and
-- KEYS[6]: the turn that has had the session; if it has ended or is forgotten, the session is free.
local dead, HOLDER = {}, ARGV[6]
for incarnation in string.gmatch(ARGV[5], '%S+') do
  dead[incarnation] = true
end
local turn = read_own()
if not turn or turn.state ~= WAITING then
  return { 'FENCED', {} }
end
if turn.not_before > NOW then
  return { 'WAIT', int(turn.not_before - NOW), '', {}, {} }
end
if not HAS_SESSION then
  return { 'GRANTED', redis.call('HGET', TURN, 'fence'), {} }
end
local session = read_session(dead)
if session.holder and session.holder == HOLDER and HOLDER ~= ID then
  local state = redis.call('HGET', KEYS[6], 'state')
  if not state or ENDED[tonumber(state)] then
    redis.call('HDEL', SESSION, 'holder', 'nonce', 'incarnation', 'granted_until')
    session.holder, session.granted_until = false, nil
  end
end
local is_queued, watched = false, {}
for _, entry in ipairs(redis.call('LRANGE', QUEUE, 0, -1)) do
  local id, incarnation = string.match(entry, '^(%S+) %S+ (%S+)$')
  is_queued = is_queued or id == ID
  if dead[incarnation] then
    redis.call('LREM', QUEUE, 1, entry)
  elseif not is_queued then
    watched[#watched + 1] = incarnation
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
  redis.call('HSET', SESSION, 'fence', int(session.fence))
  return { 'GRANTED', int(session.fence), {} }
end
if session.holder then
  watched[#watched + 1] = session.incarnation
end
local due = session.holder and session.granted_until or session.settled_at
return { 'WAIT', int(math.max(0, due - NOW)), session.holder or '', watched, wakes }
