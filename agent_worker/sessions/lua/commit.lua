-- Append what a step brought forth; with `final`, end the turn and free the lease as well.
-- ARGV: lease, expected version, commit id, final ('1' | '0'), is_final ('1' | '0'),
--       notes (JSON, '' = unchanged), messages (JSON)...
-- -> {'OK', version, step} | {'LOST'} | {'CONFLICT', version}
local lease, expected, commit_id = ARGV[4], ARGV[5], ARGV[6]
local final, is_final, notes = ARGV[7] == '1', ARGV[8], ARGV[9]

local refused = refusal()
if refused then
  return refused
end
local meta = redis.call('HMGET', META, 'version', 'step', 'last_commit', 'fence', 'turn_at',
  'request', 'commit_version')
local version, step, last_commit, fence, turn_at, key, commit_version = unpack(meta)

-- Before the lease is looked at: the final commit has freed it. `step` is still that commit's,
-- but `version` may have grown since, by the begin of the next turn.
if last_commit == commit_id then
  return { 'OK', commit_version, step }
end
if redis.call('GET', LEASE) ~= lease then
  return { 'LOST' }
end
if version ~= expected then
  return { 'CONFLICT', version }
end

local length = redis.call('LLEN', MSGS)
for i = 10, #ARGV do
  length = redis.call('RPUSH', MSGS, ARGV[i])
end
version, step = int(tonumber(version) + 1), int(tonumber(step) + 1)
redis.call('HSET', META, 'version', version, 'step', step, 'last_commit', commit_id,
  'commit_version', version)
if notes ~= '' then
  redis.call('HSET', META, 'notes', notes)
end

local now = now_ms()
if final then
  redis.call('DEL', LEASE)
  redis.call('HSET', META, 'status', 'idle')
  local record = key ~= '' and redis.call('HGET', REQ, key)
  if record then
    record = cjson.decode(record)
    record.state, record.fence, record.step, record.is_final = 'done', fence, step, is_final
    record.first, record.last = int(tonumber(turn_at) + 1), int(length - 1)
    record.at = int(now)
    redis.call('HSET', REQ, key, cjson.encode(record))
  end
end
touch(now)
return { 'OK', version, step }
