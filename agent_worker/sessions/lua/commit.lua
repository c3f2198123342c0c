-- Append the messages of a step; with `final`, end the turn and free the lease.
-- ARGV: lease, expected version, commit id, steps (0 | 1), final ('1' | '0'), is_final ('1' | '0'),
--       notes (JSON, '' = unchanged), summary ('' = unchanged), messages that it replaces,
--       events (count, then id, name, data of each), settled calls (count, then keys),
--       messages (JSON)...
-- -> {'OK', version, step, number of queued messages} | {'LOST'} | {'CONFLICT', version}
local lease, expected, commit_id = ARGV[5], ARGV[6], ARGV[7]
local steps, final, is_final = ARGV[8], ARGV[9] == '1', ARGV[10]
local notes, summary, summary_at = ARGV[11], ARGV[12], ARGV[13]

local refused = refusal()
if refused then
  return refused
end
local meta = redis.call('HMGET', META, 'version', 'step', 'commits', 'fence', 'turn_at',
  'requests', 'turn_event')
local version, step, commits, fence, turn_at, keys, turn_event = unpack(meta)
commits = commits or ' '

-- Before the check of the lease: the final commit has freed it, and others may have committed since.
local _, known = string.find(commits, ' ' .. commit_id .. '|', 1, true)
if known then
  local its_version, its_step = string.match(commits, '^(%d+)|(%d+) ', known + 1)
  return { 'OK', its_version, its_step, redis.call('LLEN', INBOX) }
end
if redis.call('GET', LEASE) ~= lease then
  return { 'LOST' }
end
if version ~= expected then
  return { 'CONFLICT', version }
end

local at = append_events(ARGV, 14)
local settled = tonumber(ARGV[at])
for i = at + 1, at + settled do
  redis.call('HDEL', TOOLS, ARGV[i], ARGV[i] .. ':result')
end
local texts = {}
for i = at + settled + 1, #ARGV do
  texts[#texts + 1] = ARGV[i]
end
local length = append_messages(texts)
version, step = int(tonumber(version) + 1), int(tonumber(step) + tonumber(steps))
local last_event = redis.call('HGET', META, 'last_event') or '0-0'
redis.call('HSET', META, 'version', version, 'step', step, 'step_event', last_event,
  'commits', latest(commit_id .. '|' .. version .. '|' .. step .. commits))
if notes ~= '' then
  redis.call('HSET', META, 'notes', notes)
end
if summary ~= '' then
  redis.call('HSET', META, 'summary', summary, 'summary_at', summary_at)
end

local now = now_ms()
if final then
  redis.call('DEL', LEASE)
  redis.call('HSET', META, 'status', 'idle')
  for _, key in ipairs(cjson.decode(keys or '[]')) do
    local record = redis.call('HGET', REQ, key)
    if record then
      record = cjson.decode(record)
      record.state, record.fence, record.step, record.is_final = 'done', fence, step, is_final
      record.first, record.last = turn_at, int(length - 1)
      record.event, record.at, record.turn_event = last_event, int(now), turn_event
      redis.call('HSET', REQ, key, cjson.encode(record))
    end
  end
  rest_events(now)
  redis.call('PUBLISH', 'hermes:events:' .. SESSION, 'ended')
end
touch(now)
return { 'OK', version, step, redis.call('LLEN', INBOX) }
