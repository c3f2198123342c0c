-- Offer an unfinished turn to be taken over. For a while its lease prevents anything else, so that no
-- other message replaces it meanwhile.
-- ARGV: lease, ms -> {'OK'} | {'LOST'}
local fence, nonce = string.match(ARGV[5], '^(%d+)|(.*)$')
local handed = fence .. '|handed.' .. nonce
local refused = refused_holder(ARGV[5])
if refused and refused[1] == 'LOST' and redis.call('GET', LEASE) == handed then
  return { 'OK' }
end
if refused then
  return refused
end
redis.call('SET', LEASE, handed, 'PX', ARGV[6])
redis.call('HINCRBY', META, 'version', 1)
touch(now_ms())
redis.call('PUBLISH', 'hermes:events:' .. SESSION, 'handed')
return { 'OK' }
