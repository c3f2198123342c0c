-- ARGV: nonce, metadata (JSON) -> {'OK'} | {'EXISTS'}
local nonce, metadata = ARGV[5], ARGV[6]

if redis.call('EXISTS', META) == 1 then
  local meta = redis.call('HMGET', META, 'owner', 'nonce')
  if meta[1] == PRINCIPAL and meta[2] == nonce then
    return { 'OK' }
  end
  return { 'EXISTS' }
end
local now = now_ms()
redis.call('HSET', META, 'schema', SCHEMA, 'owner', PRINCIPAL, 'nonce', nonce,
  'created', int(now), 'version', 1, 'fence', 0, 'step', 0, 'status', 'idle', 'bytes', 0,
  'metadata', metadata, 'notes', '{}')
touch(now)
return { 'OK' }
