-- ARGV: lease, lease ms -> {'OK'} | {'LOST'}
local refused = refusal()
if refused then
  return refused
end
if redis.call('GET', LEASE) ~= ARGV[4] then
  return { 'LOST' }
end
redis.call('PEXPIRE', LEASE, ARGV[5])
return { 'OK' }
