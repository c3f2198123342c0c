-- ARGV: nonce, metadata (JSON), optionally: life while no turn runs (ms, '' = the sliding one),
--       summary, messages (JSON)...
-- -> {'OK'} | {'EXISTS'}
local nonce, metadata, rest_ms, summary = ARGV[5], ARGV[6], ARGV[7] or '', ARGV[8] or ''

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
if rest_ms ~= '' then
  redis.call('HSET', META, 'rest_ms', rest_ms)
end
if summary ~= '' then
  redis.call('HSET', META, 'summary', summary, 'summary_at', 0)
end
local messages = {}
for i = 9, #ARGV do
  messages[#messages + 1] = ARGV[i]
end
append_messages(messages)
touch(now)
return { 'OK' }
