-- ARGV: index of the first message, of the last (-1: to the end)
-- -> {'OK', version, step, status, metadata (JSON), summary, messages that it replaces,
--     last event's id, number of queued messages, of all messages, messages...}
local refused = refusal()
if refused then
  return refused
end
local meta = redis.call('HMGET', META, 'version', 'step', 'status', 'metadata', 'summary',
  'summary_at', 'last_event')
-- A worker that died in a turn could not write this.
if meta[3] == 'running' and redis.call('EXISTS', LEASE) == 0 then
  meta[3] = 'interrupted'
end
local reply = { 'OK', meta[1], meta[2], meta[3], meta[4], meta[5] or '', meta[6] or '0',
  meta[7] or '0-0', redis.call('LLEN', INBOX), redis.call('LLEN', MSGS) }
for _, text in ipairs(redis.call('LRANGE', MSGS, ARGV[5], ARGV[6])) do
  reply[#reply + 1] = text
end
touch(now_ms())
return reply
