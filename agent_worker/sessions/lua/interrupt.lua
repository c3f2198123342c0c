-- Ask the running turn to stop. Its worker, which the lease names, is notified at once; if it misses
-- that, its next write reports the request.
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
