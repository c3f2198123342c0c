-- For the archive, which has no principal: committed messages that are not archived yet.
-- ARGV: maximum of messages
-- -> {'OK', owner, fence, index of the first, '1' if deleted, messages...} | {'NO_SESSION'}
local owner, deleted, archived, fence = unpack(redis.call('HMGET', META, 'owner', 'deleted',
  'archived', 'fence'))
if not owner then
  return { 'NO_SESSION' }
end
if deleted then
  return { 'OK', owner, '0', '0', '1' }
end
local first = tonumber(archived or 0)
local reply = { 'OK', owner, fence, int(first), '0' }
for _, text in ipairs(redis.call('LRANGE', MSGS, first, first + tonumber(ARGV[5]) - 1)) do
  reply[#reply + 1] = text
end
return reply
