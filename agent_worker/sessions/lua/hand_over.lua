-- Give a turn that is not finished to whoever takes it over. For a while its lease keeps everybody
-- else away, so that no other message takes its place meanwhile.
-- ARGV: lease, for how many ms -> {'OK'} | {'LOST'}
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
