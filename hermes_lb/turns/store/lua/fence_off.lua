-- Only the nonce ARGV[1] may append after this: its owner is dead, and TTLs count from here.
-- ARGV[2]: PUBLISH or SPUBLISH.
local OWN, EVENTS = KEYS[1], KEYS[2]
-- The owner may come back within a day, as it was only stopped.
local TTL = 86400000
local life, ended = unpack(redis.call('HMGET', OWN, 'life', 'ended'))
redis.call('HSET', OWN, 'nonce', ARGV[1])
if redis.call('PTTL', OWN) < TTL then
  redis.call('PEXPIRE', OWN, TTL)
end
if life and not ended then
  redis.call('PEXPIRE', EVENTS, life)
end
redis.call(ARGV[2], EVENTS, '')
return 0
