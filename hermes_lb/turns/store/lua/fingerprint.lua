-- All of the request has come; its fingerprint is ARGV[4].
local turn = read_own()
if not turn or ENDED[turn.state] then
  return { 'FENCED', {} }
end
redis.call('HSET', TURN, 'fingerprint', ARGV[4])
return { 'OK', {} }
