-- Only the nonce ARGV[1] may append after this: its owner is dead, and TTLs count from here.
-- ARGV[2]: PUBLISH or SPUBLISH. ARGV[3]: the owner's nonce; if another one has been fenced off in
-- its place before, that stays, and the caller finishes what the other process began. "": in any case.
-- -> the nonce that may append, and "1" (all of the response is there), "0" (it was cut) or "" (no
--    end yet)
local OWN, EVENTS = KEYS[1], KEYS[2]
-- The owner may come back within a day, as it was only stopped.
local TTL = 86400000
local nonce, life, ended = unpack(redis.call('HMGET', OWN, 'nonce', 'life', 'ended'))
local new = ARGV[3] ~= '' and nonce and nonce ~= ARGV[3] and nonce or ARGV[1]
redis.call('HSET', OWN, 'nonce', new)
if redis.call('PTTL', OWN) < TTL then
  redis.call('PEXPIRE', OWN, TTL)
end
if life and not ended then
  redis.call('PEXPIRE', EVENTS, life)
end
redis.call(ARGV[2], EVENTS, '')
local last = ended and redis.call('XREVRANGE', EVENTS, '+', '-', 'COUNT', 1)[1]
return { new, last and last[2][1] == 'end' and last[2][2] or '' }
