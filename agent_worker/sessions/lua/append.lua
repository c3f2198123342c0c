-- Append events of a running turn, before they are sent. Renews the lease. After a last event
-- `error` the turn is not taken over.
-- ARGV: lease, count, then id, name, data (JSON) of each event
-- -> {'OK', '1' if the turn is asked to stop} | {'LOST'}
local refused = refused_holder(ARGV[5])
if refused then
  return refused
end
append_events(ARGV, 6)
local lease_ms = redis.call('HGET', META, 'lease_ms')
if lease_ms then
  redis.call('PEXPIRE', LEASE, lease_ms)
end
if ARGV[#ARGV - 1] == 'error' then
  redis.call('HSET', META, 'turn_failed', '1')
end
return { 'OK', redis.call('HGET', META, 'stop') and '1' or '0' }
