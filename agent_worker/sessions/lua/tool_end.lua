-- Record the result of a call at once, so that it is not run again; the step's commit removes it.
-- ARGV: lease, call key, attempt, message (JSON; '' = the call has not run after all)
-- -> {'OK'} | {'LOST'}
local lease, call, attempt, message = ARGV[5], ARGV[6], ARGV[7], ARGV[8]

local refused = refused_holder(lease)
if refused then
  return refused
end
local known = redis.call('HGET', TOOLS, call)
known = known and cjson.decode(known)
if not known and message == '' then
  return { 'OK' }
end
if not known or known.attempt ~= attempt then
  return { 'LOST' }
end
if message == '' then
  redis.call('HDEL', TOOLS, call)
  return { 'OK' }
end
known.state = 'done'
redis.call('HSET', TOOLS, call, cjson.encode(known), call .. ':result', message)
return { 'OK' }
