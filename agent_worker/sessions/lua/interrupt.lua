-- Ask the turn that runs to stop. Its worker is named in the lease, and told at once; if it does
-- not hear that, it learns of it with its next write.
-- ARGV: none -> {'OK', remaining lease ms} | {'IDLE'}
local refused = refusal()
if refused then
  return refused
end
local lease = redis.call('GET', LEASE)
if not lease then
  return { 'IDLE' }
end
redis.call('HSET', META, 'stop', lease)
redis.call('PUBLISH', 'hermes:worker:' .. string.match(lease, '|([^.]*)'), SESSION .. ' ' .. lease)
return { 'OK', redis.call('PTTL', LEASE) }
