-- An event of the response had the `retry` field ARGV[4].
local turn = read_own()
if not turn or turn.state ~= RUNNING and turn.state ~= CANCELLING then
  return { 'FENCED', {} }
end
redis.call('HSET', TURN, 'retry', ARGV[4])
return { 'OK', {} }
