-- Start a turn: take the lease, raise the fence and append the user's message, in one write.
-- ARGV: nonce, lease ms, message (JSON), Idempotency-Key or '', fingerprint, key life ms,
--       most keys kept
-- -> {'GRANTED' | 'RESUME' | 'ORPHAN', fence, version, step, index of the turn's user message,
--     notes (JSON), messages...}
--    GRANTED  a new turn
--    ORPHAN   a new turn; the one before it was never finished
--    RESUME   the key's own unfinished turn goes on; its message is already in the history
-- -> {'REPLAY', fence, step, is_final, messages of the finished turn...}
-- -> {'BUSY' | 'IN_PROGRESS', remaining lease ms} | {'IDEMPOTENCY_MISMATCH'} | {'ABANDONED'}
-- -> {'LOST'}  this very attempt had its turn, and its lease ran out before it asked again
local nonce, lease_ms, message = ARGV[4], ARGV[5], ARGV[6]
local key, fingerprint = ARGV[7], ARGV[8]
local key_life_ms, max_keys = tonumber(ARGV[9]), tonumber(ARGV[10])

local refused = refusal()
if refused then
  return refused
end
local now = now_ms()
local meta = redis.call('HMGET', META, 'fence', 'version', 'step', 'status', 'turn_at', 'notes',
  'turn_nonce', 'turn_outcome')
local fence, version, step, status, turn_at, notes, turn_nonce, turn_outcome = unpack(meta)
local lease = redis.call('GET', LEASE)

local function granted(outcome)
  local reply = { outcome, fence, version, step, turn_at, notes }
  for _, text in ipairs(redis.call('LRANGE', MSGS, 0, -1)) do
    reply[#reply + 1] = text
  end
  return reply
end

if turn_nonce == nonce then
  return nonce_of(lease) == nonce and granted(turn_outcome) or { 'LOST' }
end

local outcome = status == 'idle' and 'GRANTED' or 'ORPHAN'
local record = key ~= '' and redis.call('HGET', REQ, key)
if record then
  record = cjson.decode(record)
  if record.fingerprint ~= fingerprint then
    return { 'IDEMPOTENCY_MISMATCH' }
  end
  if record.state == 'done' then
    local reply = { 'REPLAY', record.fence, record.step, record.is_final }
    for _, text in ipairs(redis.call('LRANGE', MSGS, record.first, record.last)) do
      reply[#reply + 1] = text
    end
    return reply
  end
  if record.fence ~= fence or status == 'idle' then
    return { 'ABANDONED' }
  end
  if lease then
    return { 'IN_PROGRESS', redis.call('PTTL', LEASE) }
  end
  outcome = 'RESUME'
end
if lease then
  return { 'BUSY', redis.call('PTTL', LEASE) }
end

-- The clock keeps it monotonic across a failover that lost the last increment.
fence = int(math.max(tonumber(fence) + 1, now))
version = int(tonumber(version) + 1)
if outcome ~= 'RESUME' then
  turn_at = int(redis.call('RPUSH', MSGS, message) - 1)
end
redis.call('SET', LEASE, fence .. '|' .. nonce, 'PX', lease_ms)
redis.call('HSET', META, 'fence', fence, 'version', version, 'status', 'running',
  'turn_at', turn_at, 'turn_nonce', nonce, 'turn_outcome', outcome, 'request', key)

local function forget_old_keys()
  local oldest, oldest_at, left = nil, math.huge, 0
  local records = redis.call('HGETALL', REQ)
  for i = 1, #records, 2 do
    local at = tonumber(cjson.decode(records[i + 1]).at)
    if at + key_life_ms < now then
      redis.call('HDEL', REQ, records[i])
    else
      left = left + 1
      if at < oldest_at then
        oldest, oldest_at = records[i], at
      end
    end
  end
  if left >= max_keys then
    redis.call('HDEL', REQ, oldest)
  end
end

if key ~= '' then
  if not record and redis.call('HLEN', REQ) >= max_keys then
    forget_old_keys()
  end
  redis.call('HSET', REQ, key, cjson.encode({
    fingerprint = fingerprint, state = 'running', fence = fence, at = int(now),
  }))
end
touch(now)
return granted(outcome)
