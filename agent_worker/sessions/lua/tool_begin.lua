-- May this call run? Asked before every effect.
-- ARGV: lease, call key, effect ('read' | 'idempotent' | 'once'), hash of the arguments,
--       attempt (of this worker; the same in a retry after a lost reply)
-- -> {'RUN'}
-- -> {'REPLAY', message (JSON)}  it has run; its result
-- -> {'UNKNOWN'}                 `once`, begun by another attempt: its outcome is unknown
-- -> {'ARGS_MISMATCH'}           the key was begun with other arguments
-- -> {'LOST'}
local lease, call, effect, hash, attempt = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]

local refused = refused_holder(lease)
if refused then
  return refused
end
local known, result = unpack(redis.call('HMGET', TOOLS, call, call .. ':result'))
if known then
  known = cjson.decode(known)
  if known.hash ~= hash then
    return { 'ARGS_MISMATCH' }
  end
  if known.state == 'done' then
    return { 'REPLAY', result }
  end
  if known.effect == 'once' and known.attempt ~= attempt then
    known.state = 'unknown'
    redis.call('HSET', TOOLS, call, cjson.encode(known))
    return { 'UNKNOWN' }
  end
end
redis.call('HSET', TOOLS, call, cjson.encode({
  state = 'pending', effect = effect, hash = hash, attempt = attempt,
  fence = redis.call('HGET', META, 'fence'),
}))
touch(now_ms())
return { 'RUN' }
