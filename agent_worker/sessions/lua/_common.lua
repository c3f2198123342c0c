-- Put before every script of this folder. The rules that all of them keep:
--   1. Only the holder of the lease (fence|nonce) writes while a turn runs; a lease that is
--      missing or another's refuses the write, so a zombie changes nothing.
--   2. Nobody but the owner gets past `refusal`.
--   3. Only `create` brings `meta` into being; everything else refuses where it is missing, so
--      a late write cannot resurrect a deleted or expired session.
--   4. Each accepted write adds 1 to `version`.
--   5. Each can be repeated with the same arguments without a second effect, so a lost reply
--      may be retried.
local META, LEASE, MSGS, TOOLS, EV, REQ, INBOX = unpack(KEYS)
local SCHEMA = 1

local PRINCIPAL = ARGV[1]
local SLIDING_MS, ABSOLUTE_MS = tonumber(ARGV[2]), tonumber(ARGV[3])

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
    return { 'UNKNOWN' }
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

-- All keys of a session expire together: SLIDING_MS from now, ABSOLUTE_MS from its creation.
-- The lease has its own, far shorter life.
local function touch(now)
  local created = tonumber(redis.call('HGET', META, 'created'))
  local at = int(math.min(now + SLIDING_MS, created + ABSOLUTE_MS))
  for _, key in ipairs({ META, MSGS, TOOLS, EV, REQ, INBOX }) do
    redis.call('PEXPIREAT', key, at)
  end
end

local function nonce_of(lease)
  return lease and string.match(lease, '|(.*)$')
end
