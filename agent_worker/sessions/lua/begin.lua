-- Begin a turn: take the lease, raise the fence and append the user's message, in one write.
-- Queued messages open the same turn, before the message.
-- ARGV: nonce, lease ms, message (JSON, '' = queued ones only), Idempotency-Key or '', fingerprint,
--       key life ms, maximum of keys, policy ('reject' | 'enqueue'), maximum of queued messages,
--       maximum bytes of a history, fence of the begin of the turn to take over or '',
--       ms of silence of a holder after which its turn can be resumed ('' = until its lease expires),
--       maximum of deaths in a row without progress, data (JSON) of the `error` that ends the turn
--       then
-- -> {'GRANTED' | 'RESUME' | 'ORPHAN', fence, version, step, index of the turn's first message,
--     notes (JSON), summary, index of the first message below, last event's id, id of the last
--     event before the unfinished step, text of that step that was emitted, `<fence>-0` of the
--     turn's first begin, messages...}
--    GRANTED  a new turn
--    ORPHAN   a new turn; the one before it was never finished
--    RESUME   an unfinished turn continues, the key's own or the one to take over; its message is
--             in the history already
-- -> {'REPLAY', fence, step, is_final, id of its `done`, `<fence>-0` of its first begin or '',
--     messages of the finished turn...}
-- -> {'QUEUED', number of queued messages} | {'INBOX_FULL'} | {'EMPTY'} no message is queued
-- -> {'BUSY', remaining lease ms} | {'IDEMPOTENCY_MISMATCH'} | {'ABANDONED'}
-- -> {'IN_PROGRESS', remaining lease ms, ms until its turn may be resumed if its holder is silent, ms
--     since its holder's last heartbeat, the holder (`holder`)}
-- -> {'GIVEN_UP'}  the key's turn was ended because its holders died again and again
-- -> {'FULL'} the history is too large
-- -> {'OVER'} | {'HELD', ms until a retry makes sense}  the turn to take over
-- -> {'LOST'}  this attempt had its turn, and its lease has expired before it asked again
local nonce, lease_ms, message = ARGV[5], ARGV[6], ARGV[7]
local key, fingerprint = ARGV[8], ARGV[9]
local key_life_ms, max_keys = tonumber(ARGV[10]), tonumber(ARGV[11])
local policy, max_waiting, max_bytes = ARGV[12], tonumber(ARGV[13]), tonumber(ARGV[14])
local taken_over, stale_ms = ARGV[15], tonumber(ARGV[16]) or math.huge
local most_deaths, given_up_data = tonumber(ARGV[17]), ARGV[18]

local refused = refusal()
if refused then
  return refused
end
local now = now_ms()
local meta = redis.call('HMGET', META, 'fence', 'version', 'step', 'status', 'turn_at', 'notes',
  'turn_nonce', 'turn_outcome', 'summary', 'summary_at', 'step_event', 'last_event', 'bytes',
  'begun', 'turns', 'deaths')
local fence, version, step, status, turn_at, notes, turn_nonce, turn_outcome = unpack(meta, 1, 8)
local summary, summary_at = meta[9] or '', meta[10] or '0'
local step_event, last_event, bytes = meta[11] or '0-0', meta[12] or '0-0', tonumber(meta[13] or 0)
local begun, turns, deaths = meta[14] or ' ', meta[15] or ' ', meta[16] or ''
local lease = redis.call('GET', LEASE)

local function emitted_text()
  local parts = {}
  for _, entry in ipairs(redis.call('XRANGE', EV, '(' .. step_event, '+')) do
    local fields = entry[2]
    if fields[2] == 'message.delta' then
      parts[#parts + 1] = cjson.decode(fields[4]).content
    elseif fields[2] == 'rewind' then
      parts = {}
    end
  end
  return table.concat(parts)
end

local function granted(outcome)
  local emitted = outcome == 'RESUME' and emitted_text() or ''
  local reply = { outcome, fence, version, step, turn_at, notes, summary, summary_at, last_event,
    step_event, emitted, redis.call('HGET', META, 'turn_event') or '' }
  for _, text in ipairs(redis.call('LRANGE', MSGS, summary_at, -1)) do
    reply[#reply + 1] = text
  end
  return reply
end

if turn_nonce == nonce then
  return nonce_of(lease) == nonce and granted(turn_outcome) or { 'LOST' }
end
-- A paused attempt may ask again after other turns have begun.
local attempt = string.match(nonce, '[^.]*$') .. ' '
if string.find(begun, ' ' .. attempt, 1, true) then
  return { 'LOST' }
end

local outcome = status == 'idle' and 'GRANTED' or 'ORPHAN'
-- Whether the holder is replaced, or its lease has expired: the fence makes that safe.
local has_died = status == 'running' and not (lease and string.find(lease, '|handed.', 1, true))
if taken_over ~= '' then
  local state, silent_ms = state_of(taken_over)
  if state == 'over' then
    return { 'OVER' }
  end
  if state == 'stopping' or state == 'held' and silent_ms < stale_ms then
    return { 'HELD', int(stale_ms - silent_ms) }
  end
  outcome, lease = 'RESUME', false
end
-- A queued message without a client's key is recognised by its attempt. Clients' keys contain no
-- spaces.
if key == '' and policy == 'enqueue' then
  key = ' ' .. nonce
end
local record = key ~= '' and redis.call('HGET', REQ, key)
local is_waiting = false
if record then
  record = cjson.decode(record)
  if record.fingerprint ~= fingerprint then
    return { 'IDEMPOTENCY_MISMATCH' }
  end
  if record.state == 'done' then
    local reply = { 'REPLAY', record.fence, record.step, record.is_final, record.event or '0-0',
      record.turn_event or '' }
    for _, text in ipairs(redis.call('LRANGE', MSGS, record.first, record.last)) do
      reply[#reply + 1] = text
    end
    return reply
  end
  if record.state == 'queued' then
    if lease then
      return { 'QUEUED', redis.call('LLEN', INBOX) }
    end
    is_waiting = true
  elseif policy == 'enqueue' and key == ' ' .. nonce then
    -- It was queued, the reply was lost, and its turn has begun since.
    return { 'QUEUED', redis.call('LLEN', INBOX) }
  elseif record.turn ~= turn_at or status == 'idle' then
    return { 'ABANDONED' }
  elseif string.match(deaths, '^%d+') and tonumber(string.match(deaths, '^%d+')) > most_deaths then
    return { 'GIVEN_UP' }
  else
    local state, silent_ms = state_of(string.match(redis.call('HGET', META, 'turn_event'), '^%d+'))
    if lease and state ~= 'free' and not (state == 'held' and silent_ms >= stale_ms) then
      local left = redis.call('PTTL', LEASE)
      local free_in_ms = math.min(left, stale_ms - silent_ms)
      return { 'IN_PROGRESS', left, int(free_in_ms), int(silent_ms), holder() }
    end
    outcome, lease = 'RESUME', false
  end
end

-- Make room for one more key. Those of queued messages and of the turn at `turn_at` are kept: at most
-- two inboxes, so there are never many to examine.
local function forget_old_keys()
  local records, rest = redis.call('HGETALL', REQ), {}
  local left = #records / 2
  local function forget(name)
    redis.call('HDEL', REQ, name)
    left = left - 1
  end
  for i = 1, #records, 2 do
    local known = cjson.decode(records[i + 1])
    local at = tonumber(known.at)
    if known.state == 'done' or known.state == 'running' and known.turn ~= turn_at then
      if at + key_life_ms < now then
        forget(records[i])
      else
        rest[#rest + 1] = { name = records[i], at = at }
      end
    end
  end
  table.sort(rest, function(one, other)
    return one.at < other.at
  end)
  for _, oldest in ipairs(rest) do
    if left < max_keys then
      break
    end
    forget(oldest.name)
  end
end

local function keep_record(name, state, turn, print)
  if redis.call('HEXISTS', REQ, name) == 0 and redis.call('HLEN', REQ) >= max_keys then
    forget_old_keys()
  end
  redis.call('HSET', REQ, name, cjson.encode({
    fingerprint = print, state = state, turn = turn, at = int(now),
  }))
end

if lease and redis.call('HGET', META, 'stop') and silence_ms() >= stale_ms then
  -- It was asked to stop for another message, but is probably dead.
  lease = false
end
local is_new = message ~= '' and not is_waiting and outcome ~= 'RESUME'
if is_new and bytes >= max_bytes then
  return { 'FULL' }
end
if lease then
  if policy ~= 'enqueue' or message == '' then
    return { 'BUSY', redis.call('PTTL', LEASE) }
  end
  if redis.call('LLEN', INBOX) >= max_waiting then
    return { 'INBOX_FULL' }
  end
  local waiting = redis.call('RPUSH', INBOX, cjson.encode({
    message = message, key = key, fingerprint = fingerprint,
  }))
  keep_record(key, 'queued', nil, fingerprint)
  touch(now)
  return { 'QUEUED', waiting }
end

local waiting = redis.call('LRANGE', INBOX, 0, -1)
if message == '' and #waiting == 0 and outcome ~= 'RESUME' then
  return { 'EMPTY' }
end

-- Add results for the open calls of an unfinished turn, so that the history stays consistent.
local function close_open_calls()
  local last = redis.call('LINDEX', MSGS, -1)
  local asked = last and cjson.decode(last)
  if not asked or asked.role ~= 'assistant' or not asked.tool_calls then
    return
  end
  local index, results = redis.call('LLEN', MSGS) - 1, {}
  for position, call in ipairs(asked.tool_calls) do
    local name = int(index) .. '.' .. int(position - 1)
    local known, result = unpack(redis.call('HMGET', TOOLS, name, name .. ':result'))
    if not result then
      local is_once = known and cjson.decode(known).effect == 'once'
      result = cjson.encode({
        role = 'tool', tool_call_id = call.id, name = call.name,
        content = is_once and 'unknown: interrupted; it may have been done, and is not repeated'
          or 'error: interrupted',
      })
    end
    results[#results + 1] = result
  end
  append_messages(results)
  redis.call('DEL', TOOLS)
end

-- Count the holders that died in a row without progress: no commit, and not more text in the step than
-- before. A turn that kills its workers must not kill all of them.
local function count_death()
  local count, step, most_said = string.match(deaths, '^(%d+)|([^|]*)|(%d+)$')
  local said = #emitted_text()
  if step ~= step_event or said > tonumber(most_said) then
    count = 0
  end
  deaths = int(tonumber(count) + 1) .. '|' .. step_event .. '|' .. int(said)
  redis.call('HSET', META, 'deaths', deaths)
  return tonumber(count) + 1
end

local function give_up()
  append_events({ '1', fence .. '-1', 'error', given_up_data }, 1)
  redis.call('DEL', LEASE)
  redis.call('HSET', META, 'fence', fence, 'version', version, 'status', 'interrupted',
    'turn_failed', '1', 'turn_nonce', '')
  rest_events(now)
  touch(now)
  redis.call('PUBLISH', 'hermes:events:' .. SESSION, 'ended')
end

-- The clock keeps the fence monotonic across a failover that lost the last increment.
fence = int(math.max(tonumber(fence) + 1, now))
version = int(tonumber(version) + 1)
local keys = {}
if outcome == 'RESUME' then
  keys = cjson.decode(redis.call('HGET', META, 'requests') or '[]')
  local turn_event = redis.call('HGET', META, 'turn_event') or '0-0'
  if tonumber(string.match(last_event, '%d+')) < tonumber(string.match(turn_event, '%d+')) then
    -- The holders before have appended no event.
    redis.call('HSET', META, 'turn_first', fence .. '-1')
  end
  if has_died and count_death() > most_deaths then
    give_up()
    return { taken_over ~= '' and 'OVER' or 'GIVEN_UP' }
  end
else
  if outcome == 'ORPHAN' then
    close_open_calls()
  end
  local opening = {}
  for _, entry in ipairs(waiting) do
    entry = cjson.decode(entry)
    opening[#opening + 1] = entry.message
    keys[#keys + 1] = entry.key
  end
  if message ~= '' and not is_waiting then
    opening[#opening + 1] = message
    if key ~= '' then
      keys[#keys + 1] = key
    end
  end
  turn_at = int(redis.call('LLEN', MSGS))
  append_messages(opening)
  redis.call('DEL', INBOX)
  for _, name in ipairs(keys) do
    local known = redis.call('HGET', REQ, name)
    keep_record(name, 'running', turn_at, known and cjson.decode(known).fingerprint or fingerprint)
  end
  step_event = fence .. '-0'
  redis.call('HSET', META, 'turn_event', step_event, 'turn_first', fence .. '-1',
    'turn_before', last_event, 'turns', latest(fence .. turns))
  redis.call('HDEL', META, 'deaths')
end
redis.call('SET', LEASE, fence .. '|' .. nonce, 'PX', lease_ms)
redis.call('HSET', META, 'fence', fence, 'version', version, 'status', 'running',
  'turn_at', turn_at, 'turn_nonce', nonce, 'turn_outcome', outcome, 'step_event', step_event,
  'begun', latest(attempt .. begun), 'lease_ms', lease_ms,
  'requests', #keys > 0 and cjson.encode(keys) or '[]')
redis.call('HDEL', META, 'stop', 'turn_failed', 'left')
touch(now)
return granted(outcome)
