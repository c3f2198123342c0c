-- Leave only a tombstone, in `meta`: it refuses a turn in flight (GONE), and identifies a repeated
-- delete.
-- ARGV: nonce, tombstone life ms -> {'OK'}
local nonce, tombstone_ms = ARGV[5], ARGV[6]

local refused = refusal()
if refused and refused[1] == 'GONE' and redis.call('HGET', META, 'deleted') == nonce then
  return { 'OK' }
end
if refused then
  return refused
end
redis.call('DEL', unpack(KEYS))
redis.call('HSET', META, 'schema', SCHEMA, 'owner', PRINCIPAL, 'deleted', nonce)
redis.call('PEXPIRE', META, tombstone_ms)
redis.call('PUBLISH', 'hermes:events:' .. SESSION, 'ended')
return { 'OK' }
