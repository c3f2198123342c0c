-- Keep events of a running turn, before anybody sees them.
-- ARGV: lease, count, then id, name, data (JSON) of each event -> {'OK', '1' if it shall stop}
--       | {'LOST'}
local refused = refused_holder(ARGV[5])
if refused then
  return refused
end
append_events(6)
return { 'OK', redis.call('HGET', META, 'stop') and '1' or '0' }
