-- The owner with NONCE and the incarnation ARGV[4] is dead: what was not sent is released, what may
-- have been is lost, for the reason ARGV[5]. ARGV[6] is the new nonce.
local turn = read_own()
if not turn or turn.incarnation ~= ARGV[4] or ENDED[turn.state] then
  return { 'FENCED', {} }
end
local has_run = turn.state ~= WAITING
local state = has_run and LOST or RELEASED
if not can_enter(turn, state) then
  return { 'FENCED', {} }
end
redis.call('HSET', TURN, 'reason', ARGV[5])
local wakes = has_ended(turn, state, has_run)
redis.call('HSET', TURN, 'nonce', ARGV[6])
return { 'OK', wakes }
