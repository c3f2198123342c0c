-- For the search for orphans, which has no principal: the session's last turn and its state.
-- ARGV: -
-- -> {'OK', owner, fence of the turn's begin or '0', state, ms since its holder's last heartbeat,
--     nonce of the last attempt, number of queued messages} | {'NO_SESSION'}
--    state: as `last_turn`
local owner, deleted, nonce = unpack(redis.call('HMGET', META, 'owner', 'deleted', 'turn_nonce'))
if not owner or deleted then
  return { 'NO_SESSION' }
end
local turn, state, silent_ms = last_turn()
return { 'OK', owner, turn, state, silent_ms, nonce or '', redis.call('LLEN', INBOX) }
