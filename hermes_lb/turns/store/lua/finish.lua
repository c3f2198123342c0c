-- Write the end of a journal behind event LAST; TTLs count from here.
-- ARGV: nonce, number of the last event, "1" if all of the response is there, why it is not, TTL in
-- ms, PUBLISH or SPUBLISH.
-- -> the numbers of the first and last event that are kept (0: none), and their bytes
--    -1 and -2 - last: as append.lua
local OWN, EVENTS = KEYS[1], KEYS[2]
local NONCE, LAST, IS_CLEAN, REASON, TTL, PUBLISH = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4],
  ARGV[5], ARGV[6]
local nonce, last, bytes, begins, ended = unpack(redis.call('HMGET', OWN, 'nonce', 'last', 'bytes',
  'begins', 'ended'))
if nonce and nonce ~= NONCE then
  return -1
end
last, bytes, begins = tonumber(last or 0), tonumber(bytes or 0), tonumber(begins or 0)
if not ended then
  if LAST ~= last then
    return -2 - last
  end
  redis.call('XADD', EVENTS, '2-0', 'end', IS_CLEAN, 'reason', REASON)
  redis.call('HSET', OWN, 'nonce', NONCE, 'ended', 1)
  redis.call('PEXPIRE', EVENTS, TTL)
  redis.call('PEXPIRE', OWN, TTL)
  redis.call(PUBLISH, EVENTS, '')
end
return { begins < last and begins + 1 or 0, last, bytes }
