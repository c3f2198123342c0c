-- waiting -> running, before the first byte goes to the server ARGV[4]. It writes in any case: WAIT
-- counts the replicas that have the writes of its own connection.
local turn = read_own()
if not turn or turn.state ~= RUNNING and not can_enter(turn, RUNNING) or turn.not_before > NOW then
  return { 'FENCED', {} }
end
if HAS_SESSION then
  local holder, nonce = unpack(redis.call('HMGET', SESSION, 'holder', 'nonce'))
  if holder ~= ID or nonce ~= NONCE then
    return { 'FENCED', {} }
  end
  redis.call('HDEL', SESSION, 'granted_until')
end
redis.call('HSET', TURN, 'state', RUNNING, 'server', ARGV[4])
return { 'OK', {} }
