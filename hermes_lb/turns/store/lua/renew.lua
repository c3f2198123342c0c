-- The owner's incarnation is ARGV[4] -> the turn's state. What expires is renewed.
local INCARNATION = ARGV[4]
local turn = read_own()
if not turn then
  return { 'FENCED', {} }
end
if ENDED[turn.state] then
  return { 'FOUND', turn.state, {} }
end
if turn.incarnation ~= INCARNATION then
  redis.call('HSET', TURN, 'incarnation', INCARNATION)
  if HAS_SESSION then
    local old = ID .. ' ' .. NONCE .. ' ' .. turn.incarnation
    for i, entry in ipairs(redis.call('LRANGE', QUEUE, 0, -1)) do
      if entry == old then
        redis.call('LSET', QUEUE, i - 1, ID .. ' ' .. NONCE .. ' ' .. INCARNATION)
      end
    end
    local holder, nonce = unpack(redis.call('HMGET', SESSION, 'holder', 'nonce'))
    if holder == ID and nonce == NONCE then
      redis.call('HSET', SESSION, 'incarnation', INCARNATION)
    end
  end
end
-- Not each time: it is called every 2 s.
if redis.call('PTTL', TURN) < turn.keep + LIVE_MS * 0.9 then
  redis.call('PEXPIRE', TURN, int(turn.keep + LIVE_MS))
  for _, key in ipairs({ HAS_KEY and KEY, HAS_SESSION and SESSION, HAS_SESSION and QUEUE }) do
    if key and redis.call('EXISTS', key) == 1 then
      keep_for(key, turn.keep + LIVE_MS)
    end
  end
  count_turn()
end
return { 'FOUND', turn.state, {} }
