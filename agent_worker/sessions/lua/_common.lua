-- Prepended to every script of this folder. The rules of all scripts:
--   1. While a turn runs, only the holder of the lease (fence|nonce) writes. Without the lease a
--      write is refused, so a zombie changes nothing.
--   2. `refusal` admits the owner only.
--   3. Only `create` creates `meta`; all others refuse if it is missing, so a late write cannot
--      resurrect a deleted or expired session.
--   4. Each accepted write to the history or the turn adds 1 to `version`. (Events and tool records
--      within a step do not.)
--   5. Each is idempotent: repeated with the same arguments it has no second effect, so it may be
--      retried after a lost reply.
--   6. Fields that a newer worker of the same schema added are not changed; those that an older one
--      did not write have a default.
local META, LEASE, MSGS, TOOLS, EV, REQ, INBOX = unpack(KEYS)
local SCHEMA = 1
local KEPT_EVENTS, MOST_EVENTS = 2000, 20000
local EVENTS_MS = 3600 * 1000
-- The number of attempts, turns and commits that are remembered to recognise a repetition.
local KNOWN = 32

local PRINCIPAL, SESSION = ARGV[1], ARGV[2]
local SLIDING_MS, ABSOLUTE_MS = tonumber(ARGV[3]), tonumber(ARGV[4])

-- tostring() would print 1.7e+12.
local function int(number)
  return string.format('%.0f', number)
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function refusal()
  local meta = redis.call('HMGET', META, 'schema', 'owner', 'deleted')
  if not meta[1] then
    return { 'NO_SESSION' }
  end
  if meta[2] ~= PRINCIPAL then
    return { 'FORBIDDEN' }
  end
  if meta[3] then
    return { 'GONE' }
  end
  if tonumber(meta[1]) > SCHEMA then
    return { 'NEWER_SCHEMA' }
  end
  return nil
end

-- The refusal of a write under `lease`, or nil.
local function refused_holder(lease)
  local refused = refusal()
  if refused then
    return refused
  end
  if redis.call('GET', LEASE) ~= lease then
    return { 'LOST' }
  end
  return nil
end

-- The keys of a session expire together: SLIDING_MS from now (or `rest_ms`, if it is set, while no
-- turn runs), at most ABSOLUTE_MS from its creation. Two have a shorter life: the lease, and the
-- events while no turn runs.
local function touch(now)
  local created, status, rest_ms = unpack(redis.call('HMGET', META, 'created', 'status', 'rest_ms'))
  local life = status ~= 'running' and tonumber(rest_ms) or SLIDING_MS
  local at = math.min(now + life, tonumber(created) + ABSOLUTE_MS)
  for _, key in ipairs({ META, MSGS, TOOLS, REQ, INBOX }) do
    redis.call('PEXPIREAT', key, int(at))
  end
  if status == 'running' then
    redis.call('PEXPIREAT', EV, int(at))
  end
end

-- No turn runs any more: the events are kept for clients that reconnect.
local function rest_events(now)
  local created, rest_ms = unpack(redis.call('HMGET', META, 'created', 'rest_ms'))
  local life = math.min(EVENTS_MS, tonumber(rest_ms) or SLIDING_MS)
  redis.call('XTRIM', EV, 'MAXLEN', '~', KEPT_EVENTS)
  redis.call('PEXPIREAT', EV, int(math.min(now + life, tonumber(created) + ABSOLUTE_MS)))
end

-- `words` from index `first`: a count, then id, name and data of each event -> the next index.
-- An id that is not greater than the last one was appended before: the call is a repetition.
local function append_events(words, first)
  local count = tonumber(words[first])
  for i = first + 1, first + 3 * count, 3 do
    local added = redis.pcall('XADD', EV, 'MAXLEN', '~', MOST_EVENTS, words[i],
      'e', words[i + 1], 'd', words[i + 2])
    if type(added) == 'string' then
      redis.call('HSETNX', META, 'first_event', added)
      redis.call('HSET', META, 'last_event', added)
    elseif not string.find(added.err, 'equal or smaller') then
      error(added.err)
    end
  end
  if count > 0 then
    if redis.call('PTTL', EV) < 0 then
      redis.call('PEXPIRE', EV, redis.call('PTTL', META))
    end
    redis.call('PUBLISH', 'hermes:events:' .. SESSION, 'events')
  end
  return first + 3 * count + 1
end

local function nonce_of(lease)
  return lease and string.match(lease, '|(.*)$')
end

-- The ms since the last heartbeat of the lease's holder: each of its writes renews the lease.
local function silence_ms()
  local left = redis.call('PTTL', LEASE)
  return math.max(0, (tonumber(redis.call('HGET', META, 'lease_ms')) or left) - left)
end

-- The worker that has the lease, by the name in its nonce (`<name>.<more>`), or ''.
local function holder()
  return string.match(redis.call('GET', LEASE) or '', '|(%w+)%.') or ''
end

-- The state of the turn that began with the fence `turn`, and the ms since its holder's last
-- heartbeat. 'over': not to be continued (finished, failed, stopped for another message, or another
-- turn has begun); 'stopping': held, and asked to stop for another message; 'free'; 'held'.
local function state_of(turn)
  local current, status, failed, stop = unpack(redis.call('HMGET', META, 'turn_event',
    'status', 'turn_failed', 'stop'))
  if current ~= turn .. '-0' or status == 'idle' or failed then
    return 'over', 0
  end
  local lease = redis.call('GET', LEASE)
  if stop then
    return lease and 'stopping' or 'over', 0
  end
  if not lease or string.find(lease, '|handed.', 1, true) then
    return 'free', 0
  end
  return 'held', silence_ms()
end

-- The session's last turn: the fence of its begin ('0': there is none), its state (as `state_of`, but
-- 'over' if it was released and not left to other workers), and the ms since its holder's last
-- heartbeat.
local function last_turn()
  local turn_event, status, left = unpack(redis.call('HMGET', META, 'turn_event', 'status', 'left'))
  local turn = string.match(turn_event or '', '^%d+') or '0'
  local state, silent_ms = state_of(turn)
  return turn, status == 'interrupted' and not left and 'over' or state, int(silent_ms)
end

-- A list of words, the latest first, truncated to KNOWN; each is surrounded by spaces.
local function latest(words)
  local kept, count = ' ', 0
  for one in string.gmatch(words, '%S+') do
    count = count + 1
    if count <= KNOWN then
      kept = kept .. one .. ' '
    end
  end
  return kept
end

local function is_before(one, other)
  local fence, seq = string.match(one, '(%d+)-(%d+)')
  local other_fence, other_seq = string.match(other, '(%d+)-(%d+)')
  if fence ~= other_fence then
    return tonumber(fence) < tonumber(other_fence)
  end
  return tonumber(seq) < tonumber(other_seq)
end

local function append_messages(texts)
  local bytes, length = 0, redis.call('LLEN', MSGS)
  for _, text in ipairs(texts) do
    length = redis.call('RPUSH', MSGS, text)
    bytes = bytes + #text
  end
  redis.call('HINCRBY', META, 'bytes', bytes)
  return length
end
