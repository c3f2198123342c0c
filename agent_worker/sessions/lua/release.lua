-- Free the lease without finishing the turn. By nonce alone: a caller that lost the reply of `begin`
-- does not know the fence.
-- ARGV: nonce, '1' if another worker is to continue the turn
-- -> {'OK', number of queued messages} | {'LOST'}
local refused = refusal()
if refused then
  return refused
end
local lease = redis.call('GET', LEASE)
local status, turn_nonce = unpack(redis.call('HMGET', META, 'status', 'turn_nonce'))
-- A turn whose lease has expired is still `running` here; this one was released before.
if not lease and status == 'interrupted' and turn_nonce == ARGV[5] then
  return { 'OK', redis.call('LLEN', INBOX) }
end
if nonce_of(lease) ~= ARGV[5] then
  return { 'LOST' }
end
local now = now_ms()
redis.call('DEL', LEASE)
redis.call('HSET', META, 'status', 'interrupted')
if ARGV[6] == '1' then
  redis.call('HSET', META, 'left', '1')
end
redis.call('HINCRBY', META, 'version', 1)
rest_events(now)
touch(now)
redis.call('PUBLISH', 'hermes:events:' .. SESSION, 'ended')
return { 'OK', redis.call('LLEN', INBOX) }
