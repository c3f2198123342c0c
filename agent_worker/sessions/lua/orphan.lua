-- For the search for orphans, which has no principal: the session's last turn, and who goes on
-- with it.
-- ARGV: -
-- -> {'OK', owner, fence with which the turn began or '0', state, ms for which its holder has not
--     been heard of, nonce of the last attempt, how many messages wait} | {'NO_SESSION'}
--    state: as `last_turn`
local owner, deleted, nonce = unpack(redis.call('HMGET', META, 'owner', 'deleted', 'turn_nonce'))
if not owner or deleted then
  return { 'NO_SESSION' }
end
local turn, state, silent_ms = last_turn()
return { 'OK', owner, turn, state, silent_ms, nonce or '', redis.call('LLEN', INBOX) }
