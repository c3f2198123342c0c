-- For the archive: the messages before this index are archived, as read under this fence. If another
-- turn has begun since, a failover may have preceded it, and the messages may be lost: the watermark
-- stays, and they are to be read again. Without another turn there can only be fewer messages.
-- ARGV: index, fence -> {'OK', number of messages that are not archived} | {'NO_SESSION'}
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
