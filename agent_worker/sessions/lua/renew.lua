-- ARGV: lease, lease ms -> {'OK', '1' if the turn is asked to stop} | {'LOST'}
local refused = refused_holder(ARGV[5])
if refused then
  return refused
end
redis.call('PEXPIRE', LEASE, ARGV[6])
return { 'OK', redis.call('HGET', META, 'stop') and '1' or '0' }
