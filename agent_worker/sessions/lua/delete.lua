-- Leave a tombstone of `meta` only: with it a turn in flight is refused (GONE), and a repeated
-- delete is known as such.
-- ARGV: nonce, tombstone life ms -> {'OK'}
local nonce, tombstone_ms = ARGV[4], ARGV[5]

if redis.call('HGET', META, 'deleted') == nonce then
  return { 'OK' }
end
local refused = refusal()
if refused then
  return refused
end
redis.call('DEL', unpack(KEYS))
redis.call('HSET', META, 'schema', SCHEMA, 'owner', PRINCIPAL, 'deleted', nonce)
redis.call('PEXPIRE', META, tombstone_ms)
return { 'OK' }
