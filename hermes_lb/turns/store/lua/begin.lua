-- Begin a turn, or find the one that has the key. KEYS[6] is the turn ARGV[10], which the caller
-- believes to have the key; if another one has it, the reply names it, and nothing has changed.
local KNOWN, KNOWN_ID = KEYS[6], ARGV[10]
local INCARNATION, FINGERPRINT, WAITS, REPEATS_LOST = ARGV[4], ARGV[5], ARGV[6], ARGV[11]
local KEEP, KEEP_EVENTS, SETTLE = tonumber(ARGV[7]), ARGV[8], ARGV[9]
local MOST_TURNS, MOST_BYTES, MOST_WAITERS = tonumber(ARGV[12]), tonumber(ARGV[13]),
  tonumber(ARGV[14])
local LINGER = ARGV[15]

-- A repetition: the id is made from the nonce.
local mine = read_own()
if mine then
  if mine.state ~= WAITING then
    return { 'GONE', {} }
  end
  local session = HAS_SESSION and read_session()
  local is_granted = mine.not_before <= NOW and (not session or session.holder == ID)
  return { is_granted and 'OWNED' or 'QUEUED', record_of(TURN), {} }
end

local attempt, not_before, fence, repeats = 1, 0, FENCE, ''
local id = HAS_KEY and redis.call('GET', KEY)
if id and id ~= KNOWN_ID then
  return { 'KNOWN', id, {} }
end
if id and redis.call('EXISTS', KNOWN) == 1 then
  local principal, state, nonce, known_print, settle, ended, attempts, known_fence = unpack(redis.call(
    'HMGET', KNOWN, 'principal', 'state', 'nonce', 'fingerprint', 'settle', 'ended', 'attempt',
    'fence'))
  if principal ~= PRINCIPAL then
    return { 'FOREIGN', {} }
  end
  if FINGERPRINT ~= '' and known_print ~= '' and known_print ~= FINGERPRINT then
    return { 'MISMATCH', record_of(KNOWN), {} }
  end
  if REPEATS_LOST ~= '1' or tonumber(state) ~= LOST or attempts ~= '1'
    or FINGERPRINT == '' and known_print ~= '' then
    return { 'JOINED', record_of(KNOWN), {} }
  end
  attempt, not_before, repeats = 2, tonumber(ended) + tonumber(settle), id
  fence = math.max(FENCE, tonumber(known_fence) + 1)
end

local turns, bytes = usage()
if turns >= MOST_TURNS or bytes >= MOST_BYTES then
  return { 'OVER_QUOTA', {} }
end

local is_granted, wakes, session = not_before <= NOW, {}, nil
if HAS_SESSION then
  session = read_session()
  wakes = advance(session, KEEP)
  local waiting = redis.call('LLEN', QUEUE)
  is_granted = is_granted and not session.holder and session.settled_at <= NOW and waiting == 0
  if not is_granted and WAITS ~= '1' then
    return { 'BUSY', int(math.max(0, session.settled_at - NOW)), wakes }
  end
  if not is_granted and waiting >= MOST_WAITERS then
    return { 'OVER_QUOTA', wakes }
  end
  if is_granted then
    session.fence = math.max(session.fence, fence - 1)
    give_session(session, ID, NONCE, INCARNATION, KEEP)
    fence = session.fence
  else
    redis.call('RPUSH', QUEUE, ID .. ' ' .. NONCE .. ' ' .. INCARNATION)
    -- A lost turn is repeated after its settle, whatever session it had.
    if not_before > session.settled_at then
      redis.call('HSET', SESSION, 'settled_at', int(not_before))
    end
    keep_for(QUEUE, KEEP + LIVE_MS)
    keep_for(SESSION, KEEP + LIVE_MS)
  end
end
redis.call('HSET', TURN, 'principal', PRINCIPAL, 'state', WAITING, 'nonce', NONCE,
  'incarnation', INCARNATION, 'fence', int(fence), 'fingerprint', FINGERPRINT,
  'key', HAS_KEY and string.match(KEY, '[^:]*$') or '',
  'session', HAS_SESSION and string.match(SESSION, '[^:]*$') or '',
  'keep', int(KEEP), 'keep_events', KEEP_EVENTS, 'settle', SETTLE, 'linger', LINGER,
  'attempt', attempt,
  'repeats', repeats, 'not_before', int(not_before), 'begun', int(NOW))
redis.call('PEXPIRE', TURN, int(KEEP + LIVE_MS))
if HAS_KEY then
  redis.call('SET', KEY, ID, 'PX', int(KEEP + LIVE_MS))
end
count_turn()
return { is_granted and 'OWNED' or 'QUEUED', record_of(TURN), wakes }
