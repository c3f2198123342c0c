-- ARGV: none -> {'OK', version, step, status, metadata (JSON), messages...}
local refused = refusal()
if refused then
  return refused
end
local meta = redis.call('HMGET', META, 'version', 'step', 'status', 'metadata')
-- A worker that died in a turn could not write so.
if meta[3] == 'running' and redis.call('EXISTS', LEASE) == 0 then
  meta[3] = 'interrupted'
end
local reply = { 'OK', meta[1], meta[2], meta[3], meta[4] }
for _, text in ipairs(redis.call('LRANGE', MSGS, 0, -1)) do
  reply[#reply + 1] = text
end
touch(now_ms())
return reply
