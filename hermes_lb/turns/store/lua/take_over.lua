-- A turn without an owner gets one: the incarnation ARGV[4], with the nonce ARGV[5].
local turn = read_turn()
if turn and turn.state == RUNNING and turn.nonce == ARGV[5] and turn.incarnation == ARGV[4] then
  return { 'OK', redis.call('HGET', TURN, 'fence'), {} }
end
if not turn or turn.nonce ~= NONCE or turn.incarnation ~= '' or turn.state ~= RUNNING then
  return { 'FENCED', {} }
end
redis.call('HSET', TURN, 'nonce', ARGV[5], 'incarnation', ARGV[4])
redis.call('HDEL', TURN, 'orphaned')
pass_session_to(ARGV[5], ARGV[4])
redis.call('PEXPIRE', TURN, int(turn.keep + LIVE_MS))
if HAS_KEY then
  redis.call('PEXPIRE', KEY, int(turn.keep + LIVE_MS))
end
count_turn()
return { 'OK', redis.call('HGET', TURN, 'fence'), {} }
