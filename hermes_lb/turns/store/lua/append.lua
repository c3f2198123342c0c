-- Append a batch to a journal. Without data its window begins behind the batch's last event: that
-- event is not kept, or a gap is marked.
-- ARGV: nonce, number before the first event, number of the last one, data, size of the journal,
-- TTL in ms, PUBLISH or SPUBLISH, TTL after the end in ms.
-- -> the number behind which the window begins (0: nothing was dropped)
--    -1: the journal is another nonce's, or has ended
--    -2 - last: the batch does not follow event `last`, the last one that is here
local OWN, EVENTS = KEYS[1], KEYS[2]
local NONCE, BEFORE, LAST, DATA, SIZE, TTL, PUBLISH, LIFE = ARGV[1], tonumber(ARGV[2]),
  tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8]
local nonce, last, bytes, begins, followed, ended = unpack(redis.call('HMGET', OWN, 'nonce', 'last',
  'bytes', 'begins', 'followed', 'ended'))
if nonce and nonce ~= NONCE or ended then
  return -1
end
if not nonce then  -- it begins, or was lost in a failover
  redis.call('HSET', OWN, 'nonce', NONCE, 'life', LIFE)
  redis.call('PEXPIRE', OWN, TTL)
end
last, bytes, begins = tonumber(last or 0), tonumber(bytes or 0), tonumber(begins or 0)
if LAST <= last then
  return begins
end
if DATA == '' then
  redis.call('DEL', EVENTS)
  bytes, begins = 0, LAST
elseif BEFORE ~= last then
  return -2 - last
else
  redis.call('XADD', EVENTS, '1-' .. LAST, 'e', LAST - BEFORE, 'd', DATA)
  if bytes == 0 then
    redis.call('PEXPIRE', EVENTS, TTL)
  end
  bytes = bytes + #DATA
  if bytes > SIZE then
    local from = '-'
    repeat
      local oldest = redis.call('XRANGE', EVENTS, from, '+', 'COUNT', 1)[1]
      bytes = bytes - #oldest[2][4]
      begins = tonumber(string.sub(oldest[1], 3))
      from = '(' .. oldest[1]
    until bytes <= SIZE
    redis.call('XTRIM', EVENTS, 'MINID', '=', '1-' .. begins + 1)
  end
end
redis.call('HSET', OWN, 'last', LAST, 'bytes', bytes, 'begins', begins)
if followed then
  local time = redis.call('TIME')
  if tonumber(followed) > tonumber(time[1]) then
    redis.call(PUBLISH, EVENTS, LAST)
  end
end
return begins
