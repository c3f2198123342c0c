-- The turn has no owner any more, and may be taken over (take_over.lua): it runs on at its backend,
-- which can continue its stream. ARGV[4]: the owner's incarnation. ARGV[5]: the new nonce.
local turn = read_turn()
if turn and turn.state == RUNNING and turn.nonce == ARGV[5] and turn.incarnation == '' then
  return { 'OK', {} }
end
local path = redis.call('HGET', TURN, 'resume_path')
if not turn or turn.nonce ~= NONCE or turn.incarnation ~= ARGV[4] or turn.state ~= RUNNING or not path or path == '' then
  return { 'FENCED', {} }
end
redis.call('HSET', TURN, 'nonce', ARGV[5], 'incarnation', '', 'orphaned', int(NOW))
pass_session_to(ARGV[5], '')
return { 'OK', {} }
