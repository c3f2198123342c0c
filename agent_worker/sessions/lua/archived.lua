-- For the archive: the messages before this index are in it, as they were under this fence. If
-- another turn has begun since, a failover may have come before it, and what was read may be lost:
-- the mark stays, and they are to be read again. Without another turn they can only have become
-- fewer.
-- ARGV: index, fence -> {'OK', how many are not} | {'NO_SESSION'}
local fence, archived = unpack(redis.call('HMGET', META, 'fence', 'archived'))
if not fence then
  return { 'NO_SESSION' }
end
local length = redis.call('LLEN', MSGS)
archived = tonumber(archived or 0)
if fence == ARGV[6] then
  archived = math.max(archived, math.min(tonumber(ARGV[5]), length))
  redis.call('HSET', META, 'archived', int(archived))
end
return { 'OK', int(length - archived) }
