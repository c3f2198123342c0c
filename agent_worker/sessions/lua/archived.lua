-- For the archive: the messages before this index are in it.
-- ARGV: index -> {'OK', how many are not} | {'NO_SESSION'}
if redis.call('HEXISTS', META, 'fence') == 0 then
  return { 'NO_SESSION' }
end
local archived = math.max(tonumber(ARGV[5]), tonumber(redis.call('HGET', META, 'archived') or 0))
redis.call('HSET', META, 'archived', int(archived))
return { 'OK', int(redis.call('LLEN', MSGS) - archived) }
