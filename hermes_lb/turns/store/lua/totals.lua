-- What all processes use together: each has a field, "<time> <turns> <waiters> <bytes>". Those of
-- processes that have not renewed it in time are dropped: there is nothing else to repair.
local USE, INCARNATION, LIFE = KEYS[1], ARGV[1], 60000
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HSET', USE, INCARNATION,
  string.format('%.0f', now) .. ' ' .. ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
redis.call('PEXPIRE', USE, 2 * LIFE)
local turns, waiters, bytes = 0, 0, 0
local fields = redis.call('HGETALL', USE)
for i = 1, #fields, 2 do
  local at, its_turns, its_waiters, its_bytes = string.match(fields[i + 1],
    '^(%d+) (%d+) (%d+) (%d+)$')
  if tonumber(at) < now - LIFE then
    redis.call('HDEL', USE, fields[i])
  else
    turns = turns + tonumber(its_turns)
    waiters = waiters + tonumber(its_waiters)
    bytes = bytes + tonumber(its_bytes)
  end
end
return { turns, waiters, bytes }
