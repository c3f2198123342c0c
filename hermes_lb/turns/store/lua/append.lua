-- Append a batch to each of several journals of one size and life. Without data the window of a
-- journal begins behind the batch's last event: that event is not kept, or a gap is marked.
-- KEYS: `own` and `ev` of each batch's journal.
-- ARGV: size of a journal, TTL in ms, PUBLISH or SPUBLISH, TTL after the end in ms; then of each
-- batch: nonce, number before the first event, number of the last one, data.
-- -> of each batch: the number behind which its journal's window begins (0: nothing was dropped)
--    -1: the journal is another nonce's, or has ended
--    -2 - last: the batch does not follow event `last`, the last one that is here
local SIZE, TTL, PUBLISH, LIFE = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]

local function append(OWN, EVENTS, NONCE, BEFORE, LAST, DATA)
  local nonce, last, bytes, begins, followed, ended = unpack(redis.call('HMGET', OWN, 'nonce',
    'last', 'bytes', 'begins', 'followed', 'ended'))
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
  if followed and tonumber(followed) > tonumber(redis.call('TIME')[1]) then
    redis.call(PUBLISH, EVENTS, LAST)
  end
  return begins
end

local replies = {}
for batch = 1, #KEYS / 2 do
  local own, events, at = KEYS[2 * batch - 1], KEYS[2 * batch], 4 * batch
  replies[batch] = append(own, events, ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]),
    ARGV[at + 4])
end
return replies
