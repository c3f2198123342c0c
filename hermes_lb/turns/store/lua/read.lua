-- Events of a journal behind event AFTER, for a follower, whose lease it renews.
-- ARGV: AFTER, bytes after which a page ends, entries that a page has at most, seconds of the lease.
-- -> the number behind which the window begins, "1" (all of the response is there), "0" (it was cut)
--    or "" (no end yet, or it is behind this page), why it was cut, and number, count and data of
--    each batch
local OWN, EVENTS = KEYS[1], KEYS[2]
local AFTER, BYTES, ENTRIES, LEASE = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- One XRANGE returns all of its data.
local STEP = 16
local begins, followed, ended = unpack(redis.call('HMGET', OWN, 'begins', 'followed', 'ended'))
if not ended then
  local now = tonumber(redis.call('TIME')[1])
  if tonumber(followed or 0) < now + LEASE / 2 then
    redis.call('HSET', OWN, 'followed', now + LEASE)
    if redis.call('PTTL', OWN) < 0 then
      redis.call('EXPIRE', OWN, 10 * LEASE)
    end
  end
end
local reply = { tonumber(begins or 0), '', '' }
if tonumber(AFTER) < reply[1] then
  return reply
end
local from, bytes, entries = '(1-' .. AFTER, 0, 0
while bytes < BYTES and entries < ENTRIES do
  local found = redis.call('XRANGE', EVENTS, from, '+', 'COUNT', STEP)
  for _, entry in ipairs(found) do
    local id, fields = entry[1], entry[2]
    if fields[1] == 'end' then
      reply[2], reply[3] = fields[2], fields[4]
    elseif bytes < BYTES then
      reply[#reply + 1] = tonumber(string.sub(id, 3))
      reply[#reply + 1] = tonumber(fields[2])
      reply[#reply + 1] = fields[4]
      bytes = bytes + #fields[4]
      entries = entries + 1
      from = '(' .. id
    else
      return reply
    end
  end
  if #found < STEP then
    return reply
  end
end
return reply
