-- The response's head: ARGV[4], whether it is an event stream, the backend's resume path, the origin
-- of the page that may read it.
local turn = read_own()
if not turn or turn.state ~= RUNNING and turn.state ~= CANCELLING then
  return { 'FENCED', {} }
end
redis.call('HSET', TURN, 'head', ARGV[4], 'is_stream', ARGV[5], 'resume_path', ARGV[6],
  'origin', ARGV[7])
return { 'OK', {} }
