-- The turn was not executed: its key is free, and requests that joined get the answer ARGV[4].
-- A nonce that is unknown here is remembered: a `begin` that is still on its way must not begin.
local turn = read_turn()
if not turn then
  if redis.call('EXISTS', TURN) == 0 then
    redis.call('HSET', TURN, 'principal', PRINCIPAL, 'nonce', NONCE, 'state', RELEASED,
      'ended', int(NOW))
    redis.call('PEXPIRE', TURN, RELEASED_MS)
  end
  return { 'OK', {} }
end
if turn.nonce ~= NONCE then
  return { 'FENCED', {} }
end
if turn.state == RELEASED or turn.state == CANCELLED then
  return { 'OK', {} }
end
-- If a client has asked for its cancellation, that has succeeded.
local state = turn.state == CANCELLING and CANCELLED or RELEASED
if not can_enter(turn, state) then
  return { 'FENCED', {} }
end
redis.call('HSET', TURN, 'head', ARGV[4])
return { 'OK', has_ended(turn, state, false) }
