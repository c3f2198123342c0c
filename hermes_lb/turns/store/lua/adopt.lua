-- The process that has taken a turn over goes on with its journal: ARGV[1] is its nonce, ARGV[2] the
-- TTL in ms, ARGV[3] how many of the last entries it wants.
-- -> the number of the last event, the one behind which the window begins, and number, count and data
--    of the last batches, newest first; -1: another process has the turn, or it has ended
local OWN, EVENTS = KEYS[1], KEYS[2]
local nonce, last, begins, ended = unpack(redis.call('HMGET', OWN, 'nonce', 'last', 'begins', 'ended'))
if nonce ~= ARGV[1] or ended then
  return { -1 }
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[2])
end
local reply = { tonumber(last or 0), tonumber(begins or 0) }
for _, entry in ipairs(redis.call('XREVRANGE', EVENTS, '+', '-', 'COUNT', ARGV[3])) do
  reply[#reply + 1] = tonumber(string.sub(entry[1], 3))
  reply[#reply + 1] = tonumber(entry[2][2])
  reply[#reply + 1] = entry[2][4]
end
return reply
