-- Only the nonce ARGV[1] may append after this. ARGV[2]: PUBLISH or SPUBLISH.
local OWN, EVENTS = KEYS[1], KEYS[2]
-- A journal that was empty: its owner may come back within a day.
local TTL = 86400000
redis.call('HSET', OWN, 'nonce', ARGV[1])
if redis.call('PTTL', OWN) < TTL then
  redis.call('PEXPIRE', OWN, TTL)
end
redis.call(ARGV[2], EVENTS, '')
return 0
