-- Precedes the scripts of control (keys.py), behind the states and transitions of states.py.
-- The rules of all of them:
--   1. All keys are declared and lie in one slot. A turn without a key or a session has names that
--      end with ":" there, which are never read or written.
--   2. A transition is a compare-and-set on the state (FOLLOWED_BY) and the owner's nonce.
--   3. Each is idempotent: a repetition with the same arguments changes nothing, and has the same
--      result, so it may follow a lost reply.
--   4. Each key has a TTL from its first write.
--   5. The last element of a reply is a list of "incarnation turn" to wake: the session of the one
--      has been granted to the other, or a client has asked for its cancellation.
local TURN, KEY, SESSION, QUEUE, USE = unpack(KEYS)
local ID, PRINCIPAL, NONCE = ARGV[1], ARGV[2], ARGV[3]
local HAS_KEY = string.sub(KEY, -1) ~= ':'
local HAS_SESSION = string.sub(SESSION, -1) ~= ':'

-- A turn that has not ended lives for this longer than `keep` after its owner's last renewal: an
-- outage of the store must not make a key free.
local LIVE_MS = 600000
-- A grant has to be taken within this time, else the next turn of the queue gets the session.
local GRANT_MS = 5000
-- For the requests that joined it.
local RELEASED_MS = 60000

local time = redis.call('TIME')
local NOW = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
-- In microseconds, which no series of grants overtakes: fences grow although the store has lost the
-- last one. It needs 51 bits, and numbers of Lua and JavaScript have 53.
local FENCE = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- tostring() would print 1.7e+12.
local function int(number)
  return string.format('%.0f', number)
end

-- The key expires in `ms` or later.
local function keep_for(key, ms)
  if redis.call('PTTL', key) < ms then
    redis.call('PEXPIRE', key, int(ms))
  end
end

local RECORD = { 'principal', 'state', 'fence', 'fingerprint', 'key', 'head', 'is_stream', 'reason',
  'server', 'resume_path', 'first', 'last', 'attempt', 'begun', 'ended', 'kept_until', 'nonce',
  'incarnation', 'session', 'orphaned', 'linger', 'origin', 'retry' }

-- The record of the turn at `key`, and the time, for records.py.
local function record_of(key)
  local record = redis.call('HMGET', key, unpack(RECORD))
  record[#record + 1] = int(NOW)
  return record
end

local FIELDS = { 'principal', 'state', 'nonce', 'incarnation', 'keep', 'keep_events', 'settle',
  'is_stream', 'not_before', 'repeats' }

-- The fields of the turn that decide; nil if it is unknown, or another principal's.
local function read_turn()
  local values, turn = redis.call('HMGET', TURN, unpack(FIELDS)), {}
  if values[1] ~= PRINCIPAL then
    return nil
  end
  for i, name in ipairs(FIELDS) do
    turn[name] = values[i] or ''
  end
  for _, name in ipairs({ 'state', 'keep', 'keep_events', 'settle', 'not_before' }) do
    turn[name] = tonumber(turn[name]) or 0
  end
  return turn
end

-- The same if NONCE is its owner's, else nil.
local function read_own()
  local turn = read_turn()
  return turn and turn.nonce == NONCE and turn or nil
end

-- The session, with `holder` false if no turn has it: a grant that was not taken is over, and so is
-- one to an incarnation of `dead` (a set).
local function read_session(dead)
  local session, values = {}, redis.call('HMGET', SESSION, 'holder', 'nonce', 'incarnation', 'fence',
    'granted_until', 'settled_at')
  session.holder, session.nonce, session.incarnation = values[1], values[2], values[3]
  session.fence, session.settled_at = tonumber(values[4]) or 0, tonumber(values[6]) or 0
  session.granted_until = tonumber(values[5])
  if session.granted_until and (session.granted_until <= NOW or dead and dead[session.incarnation])
  then
    redis.call('HDEL', SESSION, 'holder', 'nonce', 'incarnation', 'granted_until')
    session.holder, session.granted_until = false, nil
  end
  return session
end

local function give_session(session, id, nonce, incarnation, keep)
  session.holder, session.nonce, session.incarnation = id, nonce, incarnation
  session.fence = math.max(session.fence + 1, FENCE)
  redis.call('HSET', SESSION, 'holder', id, 'nonce', nonce, 'incarnation', incarnation,
    'fence', int(session.fence))
  keep_for(SESSION, keep + LIVE_MS)
end

-- Grant a free session to the next turn of its queue -> the list to wake.
local function advance(session, keep)
  if session.holder or session.settled_at > NOW then
    return {}
  end
  local entry = redis.call('LPOP', QUEUE)
  if not entry then
    return {}
  end
  local id, nonce, incarnation = string.match(entry, '^(%S+) (%S+) (%S+)$')
  give_session(session, id, nonce, incarnation, keep)
  session.granted_until = NOW + GRANT_MS
  redis.call('HSET', SESSION, 'granted_until', int(session.granted_until))
  return { incarnation .. ' ' .. id }
end

-- The turn has ended: it leaves the queue, and the session goes to the next one -> the list to wake.
local function leave_session(turn, is_settling)
  if not HAS_SESSION then
    return {}
  end
  local session = read_session()
  redis.call('LREM', QUEUE, 1, ID .. ' ' .. turn.nonce .. ' ' .. turn.incarnation)
  if session.holder == ID and session.nonce == turn.nonce then
    redis.call('HDEL', SESSION, 'holder', 'nonce', 'incarnation', 'granted_until')
    session.holder = false
    if is_settling then
      session.settled_at = NOW + turn.settle
      redis.call('HSET', SESSION, 'settled_at', int(session.settled_at))
    end
    -- A fence that was used must be remembered as long as the turn.
    keep_for(SESSION, math.max(turn.keep, is_settling and turn.settle or 0))
  end
  return advance(session, turn.keep)
end

-- USE has a field for each turn that has not ended ("t" and its id -> the time until which it counts
-- without a renewal), and for each bucket of stored bytes ("b" and the time of its expiry -> bytes).
-- Fields that are over are dropped: this is the sweep that repairs the counts.
local function usage()
  local turns, bytes, fields = 0, 0, redis.call('HGETALL', USE)
  for i = 1, #fields, 2 do
    local name, value = fields[i], tonumber(fields[i + 1])
    local is_turn = string.sub(name, 1, 1) == 't'
    if (is_turn and value or tonumber(string.sub(name, 2))) <= NOW then
      redis.call('HDEL', USE, name)
    elseif is_turn then
      turns = turns + 1
    else
      bytes = bytes + value
    end
  end
  return turns, bytes
end

local function count_turn()
  redis.call('HSET', USE, 't' .. ID, int(NOW + LIVE_MS))
  keep_for(USE, LIVE_MS)
end

-- There are about eight buckets for each `life`.
local function count_bytes(bytes, life)
  local width = math.max(1, math.floor(life / 8))
  local expires = math.ceil((NOW + life) / width) * width
  redis.call('HINCRBY', USE, 'b' .. int(expires), bytes)
  keep_for(USE, expires - NOW)
end

-- Bytes of a record beside its head, with its keys: measured, of which a stream with one entry has 4 KB.
local RECORD_SIZE = 6144

-- What follows an end -> the list to wake. TTLs count from here.
local function has_ended(turn, state, has_run)
  local life = turn.is_stream == '1' and math.min(turn.keep_events, turn.keep) or turn.keep
  local ttl = turn.keep
  if state == RELEASED then
    ttl, life = RELEASED_MS, 0
    if HAS_KEY and redis.call('GET', KEY) == ID then
      if turn.repeats ~= '' then
        -- It did not repeat the lost turn after all.
        redis.call('SET', KEY, turn.repeats, 'PX', int(turn.keep))
      else
        redis.call('DEL', KEY)
      end
    end
  elseif HAS_KEY then
    redis.call('PEXPIRE', KEY, int(turn.keep))
  end
  redis.call('HSET', TURN, 'state', state, 'ended', int(NOW), 'kept_until', int(NOW + life))
  redis.call('PEXPIRE', TURN, int(ttl))
  redis.call('HDEL', USE, 't' .. ID)
  if state ~= RELEASED then
    -- Each new key leaves one. A sixteenth counts: the limit is meant for responses.
    count_bytes(math.ceil((RECORD_SIZE + redis.call('HSTRLEN', TURN, 'head')) / 16), ttl)
  end
  return leave_session(turn, has_run and (state == LOST or state == CANCELLED))
end

-- Another nonce and incarnation have the turn, and with it its session.
local function pass_session_to(nonce, incarnation)
  if HAS_SESSION then
    local session = read_session()
    if session.holder == ID and session.nonce == NONCE then
      redis.call('HSET', SESSION, 'nonce', nonce, 'incarnation', incarnation)
      redis.call('HDEL', SESSION, 'granted_until')
    end
  end
end

-- The states table, as a compare-and-set: whether `turn` may enter `state`.
local function can_enter(turn, state)
  return FOLLOWED_BY[turn.state][state] == true
end
