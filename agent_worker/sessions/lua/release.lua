-- Give the lease back without finishing the turn. By nonce alone: whoever lost the reply of
-- `begin` does not know its fence.
-- ARGV: nonce -> {'OK'} | {'LOST'}
local refused = refusal()
if refused then
  return refused
end
if nonce_of(redis.call('GET', LEASE)) ~= ARGV[4] then
  return { 'LOST' }
end
redis.call('DEL', LEASE)
redis.call('HSET', META, 'status', 'interrupted')
redis.call('HINCRBY', META, 'version', 1)
touch(now_ms())
return { 'OK' }
