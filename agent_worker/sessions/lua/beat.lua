-- The index of running turns: a sorted set whose scores are the times of the last heartbeat, so that
-- a turn whose worker died can be found. It is one key of all sessions, so no key of a session is
-- read or written here. An entry that is returned is claimed: its score becomes the present time, so
-- no other worker gets it for as long.
-- KEYS: the index
-- ARGV: (4 unused), ms without a heartbeat after which an entry is stale, most stale ones to claim,
--       how many entries are alive, these..., entries to remove...
-- -> {'OK', claimed entries...}
local INDEX = KEYS[1]
local stale_ms, most, alive = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local now = now_ms()

for i = 8, 7 + alive do
  redis.call('ZADD', INDEX, int(now), ARGV[i])
end
for i = 8 + alive, #ARGV do
  redis.call('ZREM', INDEX, ARGV[i])
end
local reply = { 'OK' }
if most > 0 then
  local before = int(now - stale_ms)
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', INDEX, 0, before, 'LIMIT', 0, most)) do
    redis.call('ZADD', INDEX, int(now), entry)
    reply[#reply + 1] = entry
  end
end
-- Beyond the life of any session: a fleet that is gone leaves nothing behind.
redis.call('PEXPIRE', INDEX, 31 * 24 * 3600 * 1000)
return reply
